#!/bin/sh
# What the published image of PostgreSQL does at its start: makes the database once, then becomes the server.
set -eu
if [ ! -s "$PGDATA/PG_VERSION" ]; then
	initdb --encoding=UTF8 --username="$POSTGRES_USER" --pwfile="$POSTGRES_PASSWORD_FILE" --auth=scram-sha-256 >/dev/null
	echo "host all all all scram-sha-256" >>"$PGDATA/pg_hba.conf"
	pg_ctl --wait --options="-c listen_addresses=" start >/dev/null
	PGPASSWORD=$(cat "$POSTGRES_PASSWORD_FILE") createdb --username="$POSTGRES_USER" "$POSTGRES_DB"
	pg_ctl --wait --mode=fast stop >/dev/null
fi
exec postgres -c "listen_addresses=*"
