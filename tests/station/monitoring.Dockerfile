# Stand-ins for the images of Prometheus and Alertmanager, from what Debian's packages hold.
ARG BASE
FROM ${BASE} AS prometheus
COPY usr/bin/prometheus usr/bin/promtool /bin/
RUN install --directory --owner 65534 --group 65534 /prometheus
USER 65534:65534
WORKDIR /prometheus
ENTRYPOINT ["/bin/prometheus"]

FROM ${BASE} AS alertmanager
COPY usr/bin/prometheus-alertmanager usr/bin/amtool /bin/
COPY usr/share/prometheus /usr/share/prometheus
RUN install --directory --owner 65534 --group 65534 /alertmanager
USER 65534:65534
WORKDIR /alertmanager
ENTRYPOINT ["/bin/prometheus-alertmanager"]
