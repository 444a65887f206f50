#!/bin/sh
# Makes the secrets that the station's own services need, each in the volume of its one reader, where they are not yet.
set -eu
umask 022

secret() { python3 -c 'import secrets; print(secrets.token_urlsafe(24))'; }

keep() { # FILE MODE, content from standard input; whole or not at all
	cat >"$1.part"
	chmod "$2" "$1.part"
	mv "$1.part" "$1"
}

cd "${1:-/run/station}"
if [ ! -s prometheus/key ]; then
	key=$(atsnet keys new --name prometheus --role monitor --file keys/keys.jsonl)
	echo "$key" | keep prometheus/key 444
	echo "made a key with which Prometheus reads the metrics"
fi
if [ ! -s grafana/admin-password ]; then
	secret | keep grafana/admin-password 444
	echo "made Grafana's password of admin"
fi
if [ ! -s postgres/password ]; then
	password=$(secret)
	echo "postgres:5432:atsnet:atsnet:$password" | keep keys/pgpass 600
	echo "$password" | keep postgres/password 444
	echo "made PostgreSQL's password"
fi
