#!/bin/sh
# What tests need of the distribution's packages: PostgreSQL and MariaDB for transactions, strace for
# the store.
# What is not there and cannot be installed is named; its tests are skipped.
set -u
missing=""
test -n "$(ls -d /usr/lib/postgresql/*/bin/initdb 2>/dev/null)" || command -v initdb >/dev/null || missing="postgresql"
command -v mariadbd >/dev/null || test -x /usr/sbin/mariadbd || missing="$missing mariadb-server"
command -v strace >/dev/null || missing="$missing strace"
test -n "$missing" || exit 0
if test "$(id -u)" = 0 && command -v apt-get >/dev/null; then
  # No cluster of the package's own: the tests make theirs.
  export DEBIAN_FRONTEND=noninteractive
  # shellcheck disable=SC2086
  apt-get update -qq && apt-get install -y -qq --no-install-recommends $missing >/dev/null && exit 0
fi
for name in $missing; do
  echo "$name is not installed and cannot be: tests that need it are skipped"
done
