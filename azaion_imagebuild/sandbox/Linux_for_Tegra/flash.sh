#!/usr/bin/env bash
# The reference flash.sh: takes the arguments of NVIDIA's (L4T R35), builds a real ext4 image and
# its Android sparse twin, and "flashes" into a file. It shares no code with NVIDIA's.
# Like NVIDIA's it has no lock, starts from its own folder, and copies the rootfs by tar through "*"
# (top-level dotfiles and extended attributes are lost), ignores whether signing succeeded, prints no
# success line for --sign alone (bootloader/signed/flash.idx is written last), and ends "-r -v KEY"
# with 0 and no word, whatever happened.
set -eu

die() { echo "Error: $*" >&2; exit 1; }

date > rootfs/etc/user_release_version  # NVIDIA's does so even before it looks for root

no_flash=0 reuse=0 to_sign=0 pkc= sbk= rootfs=rootfs size= usb_instance=
while [ $# -gt 0 ]; do
    case $1 in
        --no-flash) no_flash=1 ;;
        -r) reuse=1 ;;
        --sign) to_sign=1 ;;
        -u) pkc=$2; shift ;;
        -v) sbk=$2; shift ;;
        --no-systemimg) ;;
        -c) [ -f "$2" ] || die "file $2 not found"; shift ;;
        -R) rootfs=$2; shift ;;
        -S) size=$2; shift ;;
        --usb-instance) usb_instance=$2; shift ;;
        -*) die "unknown option $1" ;;
        *) break ;;
    esac
    shift
done
[ $# -eq 2 ] || die "usage: flash.sh [--no-flash] [-r] [-R DIR] [-S SIZE] BOARD ROOTDEV"
board=$1 rootdev=$2

[ "$(id -u)" -ne 0 ] || [ "${USER:-}" = root ] || { echo "flash.sh requires root privilege" >&2; exit 1; }
[ -f "./$board.conf" ] || die "Invalid target board - $board."
LDK_DIR=.  # board files source their common parts by it
# shellcheck disable=SC1090
. "./$board.conf"
export PATH="$PATH:/usr/sbin:/sbin"

to_bytes() {
    local number=${1%%[KMG]iB}
    case $1 in
        *KiB) echo $((number * 1024)) ;;
        *MiB) echo $((number * 1024 * 1024)) ;;
        *GiB) echo $((number * 1024 * 1024 * 1024)) ;;
        *) echo "$1" ;;
    esac
}

build_system_img() {
    echo "copying kernel and extlinux.conf into $rootfs/boot ..."
    echo "reference kernel" > "$rootfs/boot/Image"
    printf 'DEFAULT primary\nLABEL primary\n  LINUX /boot/Image\n  APPEND root=%s\n' "$rootdev" \
        > "$rootfs/boot/extlinux/extlinux.conf"
    echo "TNSPEC $board" > "$rootfs/etc/nv_boot_control.conf"
    echo "Making system.img..."
    local bytes made=bootloader/system.img raw=bootloader/system.img.raw copy=bootloader/mnt
    bytes=$(to_bytes "${size:-$APP_SIZE}")
    rm -rf "$copy"
    mkdir -p "$copy"
    truncate -s "$bytes" "$made"
    echo "        populating rootfs from $rootfs ..."
    if [ "$rootdev" = internal ] || [ "$rootdev" = mmcblk0p1 ]; then
        (cd "$rootfs" && tar --numeric-owner -cf - ./*) | tar --numeric-owner -xpf - -C "$copy"
    else
        mkdir -p "$copy/boot" && cp -a "$rootfs/boot/." "$copy/boot/"
    fi
    mke2fs -q -t ext4 -F -b 4096 -m 0 -E root_owner="$(stat -c %u:%g "$rootfs")" -d "$copy" "$made" \
        || { rm -rf "$copy"; die "making the filesystem failed. APPSIZE might be too small"; }
    rm -rf "$copy"
    mv "$made" "$raw"
    (cd bootloader && ./mksparse --fillpattern=0 system.img.raw system.img)
    if [ "${ROOTFS_ENC:-0}" = 1 ]; then  # nobody can read it back
        { printf 'LUKS\272\276\000\002'; head -c 1048576 /dev/urandom; } > bootloader/system.img
        rm -f "$raw"
    fi
    [ "${ROOTFS_AB:-0}" != 1 ] || cp bootloader/system.img bootloader/system.img_b
    chmod 755 bootloader/system.img*
    echo "system.img built successfully."
}

# NVIDIA's too leaves a firmware file that is missing out of the layout without a word.
fill_in_layout() {
    local word path edits=(-e "s/APPFILE/system.img/")
    for word in MB1FILE TSECFW APEFILE; do
        path=${!word:-}
        [ -f "$path" ] || path=
        edits+=(-e "s/$word/${path##*/}/")
    done
    edits+=(-e "$([ -f "$TOSFILE" ] && echo "s/TOSFILE/${TOSFILE##*/}/" || echo /TOSFILE/d)")
    rm -f bootloader/flash.xml
    sed "${edits[@]}" "bootloader/t186ref/cfg/$EMMC_CFG" > bootloader/flash.xml
}

echo "# L4T BSP Information: reference BSP"
fill_in_layout
# NVIDIA's rewrites the recovery dtb beside the original at every call, with -r too.
mkdir -p kernel/dtb
echo "reference recovery dtb" > "kernel/dtb/$board.dtb.rec"
if [ "$reuse" -eq 1 ]; then
    [ -f bootloader/system.img ] || die "file bootloader/system.img not found"
    echo "Reusing existing system.img..."
else
    build_system_img
fi
sign() { (cd bootloader && ./tegraflash "$@") || true; }
if [ "$no_flash" -eq 1 ] && [ -n "$pkc$sbk" ]; then
    sign "${sbk:+enc_}signed"
elif [ "$to_sign" -eq 1 ]; then
    echo "*** Sign and generate flashing ready partition images... ***"
    sign signed
    exit 0
fi
if [ "$no_flash" -eq 1 ]; then
    echo "*** no-flash flag enabled. Exiting now... ***"
    exit 0
fi
[ -f "$VIRTUAL_DEVICE" ] || { echo "Error: probing the target board failed."; exit 1; }
echo "boot image for $usb_instance" > bootloader/boot.img  # -r rewrites it in place
after_boot
echo "Writing APP partition with system.img"
[ -z "$sbk" ] || { sign enc_signed; bootloader/mksparse --expand bootloader/system.img "$VIRTUAL_DEVICE"; exit 0; }
bootloader/mksparse --expand bootloader/system.img "$VIRTUAL_DEVICE"
echo "*** The target $board has been flashed successfully. ***"
