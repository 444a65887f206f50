# Stand-ins for the images of Prometheus and Alertmanager, from the programs of Debian's packages.
ARG BASE
FROM ${BASE} AS prometheus
COPY prometheus promtool /bin/
RUN install --directory --owner 65534 --group 65534 /prometheus
USER 65534:65534
WORKDIR /prometheus
ENTRYPOINT ["/bin/prometheus"]

FROM ${BASE} AS alertmanager
COPY prometheus-alertmanager amtool /bin/
RUN install --directory --owner 65534 --group 65534 /alertmanager
USER 65534:65534
WORKDIR /alertmanager
ENTRYPOINT ["/bin/prometheus-alertmanager"]
