# shellcheck shell=bash
# What scripts/demo and scripts/test share: installing what is missing from the distribution's packages.
#
# It touches nothing when everything is there (no package manager is started), asks for root only
# when something is to be installed, and adds one package source at most: Debian 12's own backports,
# because its QEMU (7.2) has no emulated SR-IOV adapter (igb came with 8.0).

# What compiling needs beside a Rust toolchain.
# protoc, with the files that it brings: the client of etcd is made from etcd's own definitions.
readonly PACKAGES_BUILD=(gcc libc6-dev libprotobuf-dev libvirt-dev make pkg-config protobuf-compiler)

# What the virtual hosts need. QEMU is apart: its version matters.
readonly PACKAGES_LAB=(debian-archive-keyring e2fsprogs mmdebstrap openssh-client uidmap util-linux)
readonly PACKAGES_QEMU=(qemu-system-x86 qemu-utils)
readonly QEMU_VERSION_MIN="1:8.0"

# ensure_packages NAME... installs those that are missing.
ensure_packages() {
  local missing=() name
  for name in "$@"; do
    package_installed "$name" || missing+=("$name")
  done
  ((${#missing[@]} == 0)) && return 0
  apt_install "${missing[@]}"
}

# ensure_qemu makes sure of a QEMU that has igb, from backports where the release's own is too old.
ensure_qemu() {
  local name fresh=1
  for name in "${PACKAGES_QEMU[@]}"; do
    package_installed "$name" && package_at_least "$name" "$QEMU_VERSION_MIN" || fresh=0
  done
  ((fresh == 1)) && return 0
  local codename
  codename=$(release_codename)
  if [[ $codename == bookworm ]]; then
    enable_backports "$codename"
    apt_install -t "$codename-backports" "${PACKAGES_QEMU[@]}"
  else
    apt_install "${PACKAGES_QEMU[@]}"
  fi
}

# ensure_fence_agents installs the agents that tests drive: one package each, or all in one on older releases.
ensure_fence_agents() {
  local name names=()
  for name in ipmilan redfish virsh; do
    [[ -x /usr/sbin/fence_$name ]] || names+=("fence-agents-$name")
  done
  ((${#names[@]} == 0)) && return 0
  for name in "${names[@]}"; do
    apt-cache show "$name" >/dev/null 2>&1 || { names=(fence-agents); break; }
  done
  ensure_packages "${names[@]}"
}

# ensure_venv makes sure that Python can make virtual environments; what goes into them is named beside what needs it.
ensure_venv() {
  python3 -m venv --help >/dev/null 2>&1 && python3 -c 'import ensurepip' 2>/dev/null || ensure_packages python3-venv
}

# ensure_promtool fetches it from the distribution's package without installing that: nobody here wants its server.
ensure_promtool() {
  [[ -x $(promtool_path) ]] && return 0
  require_apt prometheus
  say "fetching promtool from the Debian package prometheus"
  local dir=$PWD/target/promtool
  rm -rf "$dir" && mkdir -p "$dir"
  # What stands in the lists may be older than what the mirror has.
  (cd "$dir" && { apt-get -q download prometheus || { as_root apt-get -q update && apt-get -q download prometheus; }; }) >&2
  dpkg-deb --extract "$dir"/prometheus_*.deb "$dir"
  [[ -x $(promtool_path) ]] || fail "the package prometheus has no promtool"
}

# promtool_path prints where promtool is, or will be.
promtool_path() {
  type -P promtool || echo "$PWD/target/promtool/usr/bin/promtool"
}

package_installed() {
  [[ $(dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null) == installed ]]
}

package_at_least() {
  dpkg --compare-versions "$(dpkg-query -W -f='${Version}' "$1")" ge "$2"
}

release_codename() {
  # shellcheck source=/dev/null
  (. /etc/os-release && echo "${VERSION_CODENAME:-unknown}")
}

apt_install() {
  require_apt "$@"
  say "installing Debian packages: $*"
  if [[ -z ${APT_UPDATED:-} ]]; then
    as_root apt-get -q update >&2
    APT_UPDATED=1
  fi
  # Another package manager may be at work (unattended-upgrades on a fresh machine): wait for it.
  as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=600 \
    --no-install-recommends install "$@" >&2
}

enable_backports() {
  local codename=$1 mirror file=/etc/apt/sources.list.d/tranche-lab-backports.sources
  apt-get indextargets --format '$(RELEASE)' 'Created-By: Packages' | grep -qx "$codename-backports" && return 0
  mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' "Release: $codename" | head -n 1)
  [[ -n $mirror ]] || fail "apt has no source for $codename, so the mirror for $codename-backports is unknown. Add $codename to /etc/apt/sources.list."
  say "adding the package source $codename-backports from $mirror ($file)"
  as_root tee "$file" >/dev/null <<SOURCES
Types: deb
URIs: $mirror
Suites: $codename-backports
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
SOURCES
  APT_UPDATED=
}

require_apt() {
  command -v apt-get >/dev/null || fail "this machine has no apt-get: the lab runs on Debian 12 and 13. Install these by hand: $*"
}

as_root() {
  if ((EUID == 0)); then
    "$@"
  elif command -v sudo >/dev/null; then
    sudo "$@"
  else
    fail "root is needed for: $*. Run it as root once, or install sudo."
  fi
}

require_cargo() {
  command -v cargo >/dev/null || fail "cargo is not in PATH. Install a Rust toolchain (see README.md), then run this again."
}

say() { echo "$(basename "$0"): $*" >&2; }

fail() {
  say "$*"
  exit 1
}
