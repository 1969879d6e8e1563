#!/usr/bin/env bash
# The reference initrd flash: packs the rootfs as a tar under images/{internal,external}, as NVIDIA's
# does, and "flashes" by unpacking that tar into a filesystem in a file. Started from Linux_for_Tegra.
# Like NVIDIA's it prints no success line over --network usb0: the target's log says it.
set -eu

here=tools/kernel_flash
no_flash=0 flash_only=0 external= network= instance=0 size=
while [ $# -gt 0 ]; do
    case $1 in
        --no-flash) no_flash=1 ;;
        --flash-only) flash_only=1 ;;
        --external-device) external=$2; shift ;;
        -c|-p) shift ;;
        -S) size=$2; shift ;;
        --network) network=$2; shift ;;
        --usb-instance) instance=$2; shift ;;
        -*) echo "Error: unknown option $1"; exit 1 ;;
        *) break ;;
    esac
    shift
done
[ $# -eq 2 ] || { echo "usage: l4t_initrd_flash.sh [options] BOARD ROOTDEV"; exit 1; }
board=$1
export PATH="$PATH:/usr/sbin:/sbin"
where=internal
[ -z "$external" ] || where=external
packed=$here/images/$where/system.img

if [ "$flash_only" -eq 0 ]; then
    rm -rf "$here/images"
    mkdir -p "$here/images/$where"
    ./flash.sh --no-flash ${size:+-S "$size"} "$board" internal
    rm -f bootloader/system.img
    copy=$here/images/mnt
    mkdir "$copy"
    (cd rootfs && tar --numeric-owner -cf - ./*) | tar --numeric-owner -xpf - -C "$copy"
    tar --xattrs --numeric-owner -cpf "$packed" -C "$copy" .
    rm -rf "$copy"
    sha1sum "$packed" | cut -d' ' -f1 > "$packed.sha1sum"
    echo "Success"
fi
[ "$no_flash" -eq 0 ] || exit 0

# shellcheck disable=SC1090
. "./$board.conf"
[ -f "$VIRTUAL_DEVICE" ] || { echo "No devices to flash"; exit 1; }
[ -f "$packed" ] || { echo "Error: $packed not found"; exit 1; }
unpacked=$(mktemp -d)
trap 'rm -rf "$unpacked"' EXIT
tar --xattrs -xpf "$packed" -C "$unpacked" --numeric-owner
rm -f "$VIRTUAL_DEVICE.new"
mke2fs -q -t ext4 -F -b 4096 -m 0 -d "$unpacked" "$VIRTUAL_DEVICE.new" 64M
cat "$VIRTUAL_DEVICE.new" > "$VIRTUAL_DEVICE"
rm -f "$VIRTUAL_DEVICE.new"
mkdir -p initrdlog
log=initrdlog/flash_${instance}_0_$(date +%Y%m%d-%H%M%S).log
echo "Flash is successful" > "$log"
[ -n "$network" ] || echo "Success"
