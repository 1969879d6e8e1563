#!/usr/bin/env bash
# The runbook's step 4 as a shell script with curl, openssl and python3: what a site would write
# without this tool. Idempotent (409 -> PATCH), owner by the rootfs's passwd, atomic, mode 600.
set -euo pipefail

die() { echo "error: $*" >&2; exit 1; }

serial= api_url= rootfs_dir= owner=azaion
while [ $# -gt 0 ]; do
    case $1 in
        --serial) serial=$2 ;;
        --api-url) api_url=${2%/} ;;
        --rootfs-dir) rootfs_dir=$2 ;;
        --owner) owner=$2 ;;
        *) die "unknown argument $1" ;;
    esac
    shift 2
done
[[ $serial =~ ^[A-Za-z0-9]+(-[A-Za-z0-9]+)+$ ]] || die "bad serial $serial"
[ -d "$rootfs_dir" ] || die "no rootfs $rootfs_dir"

suffix=${serial##*-}
email="azaion-jetson-${suffix,,}@azaion.com"
password=$(openssl rand -hex 16)
answer=$(mktemp)
trap 'rm -f "$answer"' EXIT

body() {  # the password goes by the environment of one short process, never by argv
    EMAIL=$email PASSWORD=$password ROLE=${1:-} "${PYTHON:-python3}" -c 'import json, os
account = {"email": os.environ["EMAIL"], "password": os.environ["PASSWORD"]}
if os.environ["ROLE"]:
    account["role"] = os.environ["ROLE"]
print(json.dumps(account))'
}

send() {
    curl -sS -o "$answer" -w '%{http_code}' --connect-timeout 5 --max-time 30 -X "$1" \
        -H 'Content-Type: application/json' --data-binary @- "$api_url$2"
}

code=$(body CompanionPC | send POST /users)
if [ "$code" = 409 ]; then
    code=$(body | send PATCH /users/password)
    [ "$code" = 200 ] || [ "$code" = 204 ] || die "PATCH /users/password: HTTP $code $(cat "$answer")"
else
    [ "$code" = 200 ] || [ "$code" = 201 ] || die "POST /users: HTTP $code $(cat "$answer")"
fi

ids=$(awk -F: -v name="$owner" '$1 == name { print $3 ":" $4 }' "$rootfs_dir/etc/passwd")
[ -n "$ids" ] || die "no user $owner in the rootfs"
mkdir -p "$rootfs_dir/etc/azaion"
new=$(mktemp "$rootfs_dir/etc/azaion/.device.conf.XXXXXX")
printf 'AZAION_DEVICE_EMAIL=%s\nAZAION_DEVICE_PASSWORD=%s\n' "$email" "$password" > "$new"
chown "$ids" "$new"
chmod 600 "$new"
sync "$new"
mv "$new" "$rootfs_dir/etc/azaion/device.conf"
echo "provisioned $serial: $rootfs_dir/etc/azaion/device.conf"
