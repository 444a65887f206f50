"""Grafana's dashboards as code. `make dashboards` writes what Grafana reads, `docker/grafana/dashboards/*.json`."""
