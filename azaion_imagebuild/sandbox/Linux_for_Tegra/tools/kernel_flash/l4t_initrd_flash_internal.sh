#!/usr/bin/env bash
# The reference l4t_initrd_flash_internal.sh: with --no-flash it packs the rootfs as a tar under
# images/{internal,external} and a boot image for each device number; with --flash-only it "boots" a
# device and "flashes" it by unpacking that image into a filesystem in a file. It takes the arguments
# of NVIDIA's (L4T R35), finds the images beside itself as that one does, and prints what that one
# prints; it shares no code with it. Like NVIDIA's it restarts the NFS server for every device.
# With ZSTD=1 it packs and writes as R36.4 and newer do: the archive by zstd under the same name, with
# --sparse the raw image as system.img.zst; the device goes by the name's end.
set -eu

die() { echo "Error: $*"; exit 1; }

tree=$(cd "$(dirname "$0")/../.." && pwd)
here=$tree/tools/kernel_flash
cd "$tree"
no_flash=0 flash_only=0 external= layout= network= size= massflash= usb_instance= device_instance=0
sparse=0
while [ $# -gt 0 ]; do
    case $1 in
        --no-flash) no_flash=1 ;;
        --flash-only) flash_only=1 ;;
        --sparse) sparse=1 ;;
        --external-device) external=$2; shift ;;
        -c) layout=$2; shift ;;
        -p) shift ;;
        -S) size=$2; shift ;;
        --network) network=$2; shift ;;
        --massflash) massflash=$2; shift ;;
        --usb-instance) usb_instance=$2; shift ;;
        --device-instance) device_instance=$2; shift ;;
        -*) die "unknown option $1" ;;
        *) break ;;
    esac
    shift
done
[ $# -eq 2 ] || die "usage: l4t_initrd_flash_internal.sh [options] BOARD ROOTDEV"
board=$1 rootdev=$2
LDK_DIR=.  # board files source their common parts by it
# shellcheck disable=SC1090
. "./$board.conf"
export PATH="$PATH:/usr/sbin:/sbin" REFERENCE_HOST=$OUTSIDE/host
where=internal
[ -z "$external" ] || where=external
packed=$here/images/$where/system.img
[ "${ZSTD:-0}$sparse" != 11 ] || packed=$packed.zst

pack() {
    rm -rf "$here/images"
    mkdir -p "$here/images/$where"
    local number
    ./flash.sh --no-flash ${size:+-S "$size"} "$board" internal
    pack_app
    rm -f bootloader/system.img
    sha1sum "$packed" | cut -d' ' -f1 > "$packed.sha1sum"
    echo "APP${external:+_ext}=${packed##*/}" > "${packed%/*}/flash.cfg"
    echo "${external:+--external-device $external -c \"$layout\"} ${size:+-S $size}" \
        "${network:+--network $network} $board $rootdev" > "$here/initrdflashparam.txt"
    rm -f "$here/initrdflashimgmap.txt"
    for number in $(seq 0 $((${massflash:-1} - 1))); do
        echo "reference boot image, instance=$number" > "bootloader/boot$number.img"
        echo "flashimg$number=boot$number.img" >> "$here/initrdflashimgmap.txt"
    done
    [ -z "$massflash" ] || pack_for_other_hosts
    echo "Success"
}

pack_app() {
    if [ "$sparse" -eq 1 ]; then
        if [ "${ZSTD:-0}" = 1 ]; then
            zstd -q -T0 bootloader/system.img.raw -o "$packed"
        else
            cp bootloader/system.img "$packed"
        fi
        return
    fi
    local copy=$here/images/mnt
    mkdir "$copy"
    (cd rootfs && tar --numeric-owner -cf - ./*) | tar --numeric-owner -xpf - -C "$copy"
    if [ "${ZSTD:-0}" = 1 ]; then
        tar -c -I 'zstd -T0' -pf "$packed" --numeric-owner --xattrs -C "$copy" .
    else
        tar --xattrs --numeric-owner -cpf "$packed" -C "$copy" .
    fi
    rm -rf "$copy"
}

pack_for_other_hosts() {
    rm -rf "mfi_$board"
    mkdir -p "mfi_$board/tools"
    cp -a tools/kernel_flash "mfi_$board/tools"
    cp -a rootfs "mfi_$board"
    tar -czf "mfi_$board.tar.gz" "mfi_$board"
}

# A device that has booted with the boot image of its number has the address of that number; what is
# flashed to an address reaches the device that took it last.
boot() {
    local image work=temp_initrdflash/bootloader$device_instance
    image=$(sed -n "s/^flashimg$device_instance=//p" "$here/initrdflashimgmap.txt")
    [ -n "$image" ] || die "there is no boot image for the device $device_instance"
    mkdir -p "$work" "$REFERENCE_HOST/net"
    cp "bootloader/$image" "$work"
    [ -f "$VIRTUAL_DEVICE" ] || { echo "Timeout"; exit 1; }
    realpath "$VIRTUAL_DEVICE" > "$REFERENCE_HOST/net/fc00:1:1:$device_instance"
    rm -rf "$work"
}

write() {
    local device
    device=$(cat "$REFERENCE_HOST/net/fc00:1:1:$device_instance")
    if [ "$(head -c 4 "$packed" | od -An -tx1 | tr -d ' ')" = 3aff26ed ]; then
        bootloader/mksparse --expand "$packed" "$device"
        return
    fi
    local unpack=()
    if [ "$(head -c 4 "$packed" | od -An -tx1 | tr -d ' ')" = 28b52ffd ]; then
        if [ "${packed%.zst}" != "$packed" ]; then
            zstd -T0 -dqc "$packed" > "$device"
            return
        fi
        unpack=(-I 'zstd -T0')
    fi
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    mkdir "$work/root"
    tar "${unpack[@]}" --xattrs -xpf "$packed" -C "$work/root" --numeric-owner
    mke2fs -q -t ext4 -F -b 4096 -m 0 -d "$work/root" "$work/image" 16M
    # What parted prints on a disk larger than the layout, in a good flash.
    echo "Error: The backup GPT table is corrupt, but the primary appears OK, so that will be used."
    echo "Error: The backup GPT table is not at the end of the disk, as it should be.  Fix?"
    cat "$work/image" > "$device"
}

flash() {
    local named=$here/images/$where/flash.cfg
    [ ! -f "$named" ] || packed=$here/images/$where/$(sed -n 's/^APP\(_ext\)\?=//p' "$named")
    [ -f "$packed" ] || die "$packed not found"
    if [ "$network" = usb0 ]; then
        tools/reference_host/service nfs-kernel-server restart
        tools/reference_host/exportfs -o rw,no_root_squash "[fc00:1:1::/48]:$tree/rootfs"
        tools/reference_host/exportfs -o rw,no_root_squash "[fc00:1:1::/48]:$here"
    fi
    boot
    after_boot
    if [ "$network" = usb0 ] && ! tools/reference_host/exportfs -s | grep -qF "${here// /\\040} "; then
        echo "mount.nfs: access denied by server while mounting [fc00:1:1:$device_instance::1]:$here"
        echo "Flash failure"
        exit 1
    fi
    write
    if [ "$network" = usb0 ]; then
        echo "Flash is successful"
        echo "Reboot device"
        exit 0
    fi
    echo "Success"
}

[ "$flash_only" -eq 1 ] || pack
[ "$no_flash" -eq 1 ] || flash
