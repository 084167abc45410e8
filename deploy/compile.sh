#!/bin/sh
# Used while images are built, where setuptools is not: deploy/compile.sh FOLDER compiles its C modules in place.
set -eu
for source in "$1"/*.c; do
    gcc -O2 -shared -fPIC -Wall -Wextra -Werror "-I$(python -c 'import sysconfig; print(sysconfig.get_path("include"))')" \
        "$source" -o "${source%.c}$(python -c 'import sysconfig; print(sysconfig.get_config_var("EXT_SUFFIX"))')"
done
