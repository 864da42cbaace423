#!/bin/sh
# Runs inside the node's root tree, once its packages are installed: makes of a plain Debian a lab node.
# Nothing here knows Tranche: its package is installed in a running node exactly as on a real host.
set -eu

# What would only cost time in a machine that lives for minutes, and the login prompt that would eat the serial log.
systemctl mask apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service \
  fstrim.timer logrotate.timer man-db.timer getty@tty1.service serial-getty@ttyS0.service \
  systemd-networkd-wait-online.service systemd-pcrphase.service

# The package's own service; Tranche runs etcd as one of its own.
systemctl mask etcd.service

echo tranche-node >/etc/hostname
printf '127.0.0.1 localhost\n' >/etc/hosts
# No name server is reached from here. libvirt looks its own host's name up at each start of a VM, which libnss-myhostname
# answers; asking a server that does not answer took 10 s.
: >/etc/resolv.conf

# The card by which the lab's own ssh comes in, told from the SR-IOV adapters by its address.
cat >/etc/systemd/network/10-lab.network <<'UNIT'
[Match]
MACAddress=52:54:00:6c:61:62
[Network]
Address=10.0.2.15/24
Gateway=10.0.2.2
LinkLocalAddressing=no
UNIT
systemctl enable systemd-networkd.service

# Without a login session for every command that the lab runs.
printf 'UsePAM no\nUseDNS no\n' >/etc/ssh/sshd_config.d/lab.conf

# The lab waits for this line in the serial log instead of trying ssh again and again.
cat >/etc/systemd/system/tranche-lab-ready.service <<'UNIT'
[Unit]
Description=Have libvirt look at QEMU, and say on the serial port that the node is up
After=ssh.service libvirtd.socket libvirtd.service systemd-networkd.service
[Service]
Type=oneshot
# libvirt asks QEMU what it can, once, when it first needs to know: a host that has been up for a while has that behind it.
ExecStartPre=/usr/bin/virsh -q capabilities
StandardOutput=null
ExecStart=/bin/sh -c 'echo TRANCHE-NODE ready >/dev/ttyS0'
[Install]
WantedBy=multi-user.target
UNIT
systemctl enable tranche-lab-ready.service

# One adapter as a GPU whose virtual functions take types, in a node that asks for it on its kernel's command line. Before
# whatever looks at GPUs, as a real GPU's driver is there before it.
chmod 755 /usr/lib/nvidia/sriov-manage
cat >/etc/systemd/system/tranche-lab-vgpu.service <<'UNIT'
[Unit]
Description=Give the second adapter to the stand-in for NVIDIA's vGPU host driver
ConditionKernelCommandLine=tranche_lab.vgpu=1
Wants=systemd-udev-settle.service
After=systemd-modules-load.service systemd-udev-settle.service
Before=tranched.service libvirtd.service
[Service]
Type=oneshot
RemainAfterExit=yes
Environment=GPU=0000:02:00.0
# Nothing else: what Tranche and sriov-manage need beyond the driver, Tranche's package loads.
ExecStart=/usr/sbin/modprobe nvidia
ExecStart=/bin/sh -c 'cd /sys/bus/pci && echo nvidia >devices/$GPU/driver_override && \
  if [ -e devices/$GPU/driver ]; then echo $GPU >devices/$GPU/driver/unbind; fi && \
  echo $GPU >drivers_probe && echo >devices/$GPU/driver_override && test -e drivers/nvidia/$GPU'
[Install]
WantedBy=multi-user.target
UNIT
systemctl enable tranche-lab-vgpu.service

# The storage pool that virt-manager and most guides call "default".
mkdir -p /etc/libvirt/storage/autostart
cat >/etc/libvirt/storage/default.xml <<'POOL'
<pool type='dir'>
  <name>default</name>
  <target><path>/var/lib/libvirt/images</path></target>
</pool>
POOL
ln -s ../default.xml /etc/libvirt/storage/autostart/default.xml

# Nothing is to be brought up to date at the first boot (the linker's cache, the journal's catalogue): this is that update.
touch /etc/.updated /var/.updated
