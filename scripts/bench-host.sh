# shellcheck shell=sh
# The part of scripts/bench that runs in the virtual host, after the demo: compares Tranche with what it drives.
set -eu
pf=$1 rounds=$2
device=/sys/bus/pci/devices/$pf

now_ms() { date +%s%3N; }

# What udev and libvirt still do about devices that came or went is in nobody's time.
quiet() { udevadm settle; sleep 5; }

# The stop of the demo's VMs is not measured.
for vm in vm1 vm2 vm3; do tranche -q vm stop --force "$vm"; done
virsh dumpxml --inactive vm1 >/tmp/vm1.xml

round=0
while [ "$round" -lt "$rounds" ]; do
  round=$((round + 1))

  tranche -q gpu release "$pf"
  quiet
  began=$(now_ms)
  echo 0 >"$device/sriov_drivers_autoprobe"
  echo 4 >"$device/sriov_numvfs"
  for vf in "$device"/virtfn*; do
    echo vfio-pci >"$vf/driver_override"
    basename "$(readlink -f "$vf")" >/sys/bus/pci/drivers_probe
  done
  raw_ms=$(($(now_ms) - began))
  echo 0 >"$device/sriov_numvfs"
  echo 1 >"$device/sriov_drivers_autoprobe"
  quiet

  began=$(now_ms)
  tranche -q gpu partition "$pf" 4
  tranche_ms=$(($(now_ms) - began))
  echo "gpu partition $pf 4: raw sysfs $raw_ms ms, tranche $tranche_ms ms"

  # The same VM, with the same device, by libvirt alone: a definition of its own, so that Tranche's is not touched.
  vf=$(basename "$(readlink -f "$device/virtfn3")")
  bus=${vf#*:} slot=${bus#*:}
  hostdev="<hostdev mode='subsystem' type='pci' managed='no'><source><address domain='0x${vf%%:*}' bus='0x${bus%%:*}' slot='0x${slot%.*}' function='0x${slot#*.}'/></source></hostdev>"
  sed -e "s#<name>vm1</name>#<name>raw</name>#" -e "/<uuid>/d" -e "s#</devices>#$hostdev</devices>#" -e "s#vm1-serial#raw-serial#" \
    /tmp/vm1.xml >/tmp/raw.xml
  began=$(now_ms)
  virsh -q create /tmp/raw.xml
  raw_ms=$(($(now_ms) - began))
  virsh -q destroy raw
  quiet

  began=$(now_ms)
  tranche -q vm start vm1
  tranche_ms=$(($(now_ms) - began))
  tranche -q vm stop --force vm1
  echo "start of a VM with a partition: virsh create $raw_ms ms, tranche vm start $tranche_ms ms"
done
