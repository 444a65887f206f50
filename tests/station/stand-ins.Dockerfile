# Stand-ins for images of registries, from what Debian's packages hold.
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

# With the variables of the published image, as far as the station sets them.
FROM ${BASE} AS postgres
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends postgresql-15 \
    && rm -rf /var/lib/apt/lists/* \
    && install --directory --owner postgres --group postgres /var/lib/postgresql/data
# hadolint ignore=DL3022
COPY --from=scripts postgres.sh /usr/local/bin/postgres.sh
ENV PATH=/usr/lib/postgresql/15/bin:$PATH PGDATA=/var/lib/postgresql/data
# hadolint ignore=DL3066
USER postgres
ENTRYPOINT ["sh", "/usr/local/bin/postgres.sh"]
