#!/usr/bin/env bash
# set-up.sh PYTHON VENV PACKAGE MARK: make the virtual environment VENV, install PACKAGE into it, and
# touch VENV/.MARK when all of it worked. Everything it says goes to stderr: stdout is the tool's.
set -eu
python=$1 venv=$2 package=$3 mark=$4
exec >&2
unset PYTHONHOME PYTHONPATH PIP_PREFIX PIP_ROOT PIP_TARGET  # the caller's: not for this environment
export PIP_USER=0  # pip.conf may say otherwise

fail() { echo "error: $1"; echo "hint: $2"; exit 2; }

command -v "$python" >/dev/null || fail "$python is not installed" "sudo apt-get install python3 python3-venv, or make … PYTHON=/path/to/python3"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
    || fail "$python is older than Python 3.10" "make … PYTHON=/path/to/a/newer/python3"
[ -w . ] || fail "cannot write into $PWD" "use a checkout that belongs to you"
# sudo make leaves an environment of root: one error, not one for each of its files
foreign() {
    [ -e "$venv" ] && [ "$(id -u)" != 0 ] && find "$venv" ! -user "$(id -un)" -print -quit 2>/dev/null | grep -q .
}
exec 9<pyproject.toml
flock 9  # two first builds at once: the second waits
here=$(cat "$venv/.where" 2>/dev/null || true)
if [ "$here" != "$PWD" ] || [ ! "$venv/.$mark" -nt pyproject.toml ]; then
    ! foreign || fail "$venv belongs to $(stat -c %U "$(find "$venv" ! -user "$(id -un)" -print -quit)")" \
        "sudo rm -rf $PWD/$venv, then run the same command again"
fi
[ "$here" = "$PWD" ] || rm -rf "$venv" || fail "cannot remove $venv" "remove it as the user who made it"
[ ! "$venv/.$mark" -nt pyproject.toml ] || exit 0

echo "Setting up $venv (once, and again when pyproject.toml changes) ..."
[ -x "$venv/bin/python" ] && "$venv/bin/python" -c '' 2>/dev/null \
    || rm -rf "$venv" || fail "cannot remove $venv" "remove it as the user who made it"
[ -d "$venv" ] || "$python" -m venv "$venv" \
    || fail "cannot make a virtual environment" "sudo apt-get install python3-venv"
echo "$PWD" > "$venv/.where" || fail "cannot write into $venv" "remove it as the user who made it"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --editable "$package" \
    || fail "cannot install the packages that pyproject.toml names" "check the network and pip's configuration, then run the same command again"
touch "$venv/.$mark"
