# What a host is, one "@name value" line for each fact: POSIX sh (and its -ef, which all have), sent to `sh -s`. It
# writes nothing, never fails, and bounds what may hang. The braces have the shell read all of it before it starts.
{
LC_ALL=C; export LC_ALL
PATH=${PATH:-/usr/bin:/bin}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin; export PATH
[ -n "$HOME" ] || HOME=$(getent passwd "$(id -u)" | cut -d : -f 6)
HOME=${HOME:-/}

say() { printf '@%s %s\n' "$1" "$2"; }
each() { while IFS= read -r line || [ -n "$line" ]; do say "$1" "$line"; done; }
has() { command -v "$1" >/dev/null; }

if timeout 5 true; then bounded() { timeout 5 "$@"; }
elif has perl; then bounded() { perl -e 'alarm 5; exec @ARGV' "$@"; }
else bounded() { "$@"; }
fi

# The index that pip and uv would ask; its URL may hold a password, so it goes to the client by stdin.
index() {
    url=${UV_DEFAULT_INDEX:-${UV_INDEX_URL:-$PIP_INDEX_URL}}
    set -- "$HOME/.config/pip/pip.conf" "$HOME/.pip/pip.conf" /etc/pip.conf
    [ -n "$url" ] || url=$(sed -n 's/^index-url *= *//p' "$@" | head -n 1)
    url=${url:-https://pypi.org/simple}
    url=${url%/}/pip/
    if has curl; then
        printf 'url = "%s"\n' "$url" | bounded curl -fsSIL --connect-timeout 1 -m 3 -o /dev/null -K -
    elif has python3; then
        printf '%s' "$url" | bounded python3 -c 'import sys, urllib.request as u; u.urlopen(sys.stdin.read(), timeout=1)'
    else
        case $url in *@*) return ;; esac
        bounded wget -q -T 1 -O /dev/null "$url"
    fi && say index yes
}

nvidia() {
    smi=$(command -v nvidia-smi || command -v /usr/lib/wsl/lib/nvidia-smi) || return
    fields=--query-gpu=name,memory.total,driver_version csv=--format=csv,noheader,nounits
    bounded "$smi" | grep 'CUDA Version' | each cuda &
    seen=$(bounded "$smi" "$fields,mig.mode.current,compute_cap" "$csv")
    case $seen in *"not a valid field"*) seen=$(bounded "$smi" "$fields" "$csv") ;; esac
    printf '%s\n' "$seen" | each gpu
    case $seen in *Enabled*) bounded "$smi" -L | each mig ;; esac
    wait
}

linux() {
    if [ -r /etc/os-release ]; then each os </etc/os-release; else each os </usr/lib/os-release; fi
    getconf GNU_LIBC_VERSION | each libc || ldd --version 2>&1 | each libc
    while read -r line && [ -n "$line" ]; do
        case $line in "model name"*) say cpu "$line"; named=1; break ;; esac
    done </proc/cpuinfo
    [ -n "$named" ] || lscpu | grep 'Model name' | each cpu
    [ -r /proc/device-tree/model ] && each board </proc/device-tree/model
    { nproc || getconf _NPROCESSORS_ONLN; } | each cores
    read -r line </proc/meminfo && say memory "$line"
    read -r line </proc/sys/kernel/random/boot_id && say boot "$line"
    for device in /sys/bus/pci/devices/*; do
        read -r class <"$device/class" && read -r vendor <"$device/vendor" || continue
        case $class in 0x03* | 0x1200*) say pci "$vendor $class" ;; esac
    done
    [ -d /run/systemd/system ] || return
    bounded systemctl show -p Version | each systemd
    runtime=${XDG_RUNTIME_DIR:-/run/user/$uid}
    bounded env "XDG_RUNTIME_DIR=$runtime" systemctl --user show -p Version | each systemd-user
    [ -e "/var/lib/systemd/linger/$user" ] && say linger yes
}

darwin() {
    sw_vers | each sw
    sysctl machdep.cpu.brand_string hw.memsize hw.ncpu hw.optional.arm64 kern.boottime | each sysctl
    bounded launchctl print system >/dev/null && say launchd system
    bounded launchctl print "gui/$uid" >/dev/null && say launchd gui
}

system=$(uname -sm) user=$(id -un) uid=$(id -u) state=${LLMCTL_HOME:-$HOME/.llmctl}
index &
case $system in
Linux*) nvidia & linux & ;;
Darwin*) bounded system_profiler SPDisplaysDataType | each display & darwin & ;;
esac
if [ "$uid" = 0 ]; then say sudo yes; elif has sudo; then bounded sudo -n true && say sudo yes; fi &

say system "$system"; say user "$user"; say uid "$uid"; say home "$HOME"
place=$state; [ -d "$place" ] || place=$HOME
bounded df -Pk "$place" | each disk
[ -L "$state/current" ] && say release "$(readlink "$state/current")"

dirs=$PATH:$state/bin:$HOME/.local/bin:$HOME/.cargo/bin:/opt/homebrew/bin:/opt/local/bin
for base in "$HOME/miniforge3" "$HOME/mambaforge" "$HOME/miniconda3" "$HOME/anaconda3" "$HOME/micromamba" /opt/conda \
    /opt/miniforge3 /opt/miniconda3 "$HOME"/.pyenv/versions/* "$HOME"/.local/share/uv/python/* \
    /Library/Frameworks/Python.framework/Versions/*; do
    [ -d "$base/bin" ] && dirs=$dirs:$base/bin
done
IFS=:
tool() { for dir in $dirs; do [ -f "$dir/$1" ] && [ -x "$dir/$1" ] && say tool "$1 $dir/$1" && return; done; }
tool uv; tool mamba; tool micromamba; tool conda
# Each interpreter once, by the name that says its version; no shims of version managers, whose answer depends on the
# folder, and no virtual environments, which stand on another interpreter.
seen=
for dir in $dirs; do
    case $dir in */shims) continue ;; esac
    [ -e "$dir/../pyvenv.cfg" ] && continue
    for python in "$dir"/python3.[0-9] "$dir"/python3.[0-9][0-9] "$dir/python3"; do
        [ -f "$python" ] && [ -x "$python" ] || continue
        for other in $seen; do [ "$python" -ef "$other" ] && continue 2; done
        seen=$seen:$python
        # without Apple's command line tools, Apple's own opens a window that asks for them
        case $system:$python in Darwin*:/usr/bin/python3*) xcode-select -p >/dev/null || continue ;; esac
        say python "$python $(bounded "$python" -V 2>&1 | head -n 1)"
    done
done
say clock "$(date +%s)"
wait
say end
} </dev/null 2>/dev/null
exit 0
