#!/bin/sh
# Makes the passwords that docker-compose.yml asks for and an admin's API key, at random, each in a file of its own in
# deploy/secrets/, and names that folder in .env. What is there stays. deploy/secrets.sh FOLDER puts them elsewhere.
set -eu
cd "$(dirname "$0")/.."
folder=${1:-deploy/secrets}
(umask 077 && mkdir -p "$folder")
# 256 bits as text that needs no quoting in a URL
secret() { head -c 32 /dev/urandom | base64 | tr '+/' '-_' | tr -d '=\n'; }
put() { # put NAME: what comes in, unless it is there
    file=$folder/$1
    [ ! -s "$file" ] || return 0
    cat >"$file.new"
    # Containers read it under other users than yours; on this machine the folder keeps everybody else out.
    chmod 444 "$file.new"
    mv "$file.new" "$file"
    echo "made $file"
}
secret | put database_password
secret | put redis_password
# As shared/keys.py wants it. The API keeps its hash; another file here is another key at the next start, and this one
# ends. MODELYARD_API_KEY_FILE names it to the command line and the client.
printf 'mdy_%s_%s' "$(od -An -N6 -tx1 /dev/urandom | tr -d ' \n')" "$(secret)" | put admin_key
case $folder in /* | ./*) ;; *) folder=./$folder ;; esac
env=${MODELYARD_ENV_FILE:-.env}
grep -qs '^MODELYARD_SECRETS=' "$env" || printf 'MODELYARD_SECRETS=%s\n' "$folder" >>"$env"
