#!/usr/bin/env bash
# The reference initrd flash: has l4t_initrd_flash_internal.sh pack images, and flashes one device by
# it. Takes the arguments of NVIDIA's (L4T R35); shares no code with it. Started from Linux_for_Tegra.
# Like NVIDIA's it gives every device the number 0, prints no success line over --network usb0 (the
# target's log says it), and takes all exports with it when it ends, whosever they are.
set -eu

here=tools/kernel_flash
no_flash=0 flash_only=0 network= usb_instance=
given=("$@")
while [ $# -gt 0 ]; do
    case $1 in
        --no-flash) no_flash=1 ;;
        --flash-only) flash_only=1 ;;
        --sparse) ;;
        --external-device|-c|-p|-S|--massflash) shift ;;
        --network) network=$2; shift ;;
        --usb-instance) usb_instance=$2; shift ;;
        -*) echo "Error: unknown option $1"; exit 1 ;;
        *) break ;;
    esac
    shift
done
[ $# -eq 2 ] || { echo "usage: l4t_initrd_flash.sh [options] BOARD ROOTDEV"; exit 1; }
LDK_DIR=.  # board files source their common parts by it
# shellcheck disable=SC1090
. "./$1.conf"
export REFERENCE_HOST=$OUTSIDE/host
trap 'tools/reference_host/exportfs -ra' EXIT

if [ "$flash_only" -eq 0 ]; then
    "$here/l4t_initrd_flash_internal.sh" --no-flash "${given[@]}"
fi
[ "$no_flash" -eq 0 ] || exit 0
[ -f "$VIRTUAL_DEVICE" ] || { echo "No devices to flash"; exit 1; }
mkdir -p initrdlog
log=initrdlog/flash_${usb_instance:-0-0}_0_$(date +%Y%m%d-%H%M%S).log
eval "parameters=($(cat $here/initrdflashparam.txt))"
"$here/l4t_initrd_flash_internal.sh" ${network:+--network "$network"} \
    --usb-instance "$usb_instance" --device-instance 0 --flash-only "${parameters[@]}" > "$log" 2>&1 \
    || { cat "$log"; exit 1; }
[ -n "$network" ] || echo "Success"
