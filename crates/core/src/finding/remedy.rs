//! The handbook's entry for each code: where to look, and what to do.
//!
//! A finding's own hint knows the names of what is concerned; an entry here knows what to rule out, in which order, and what
//! stays safe meanwhile. It is one list that the compiler keeps whole, so that no code can come without an entry. `docs/failures.md`
//! and `tranche explain` show it. It decides nothing.

use super::Code;

/// What to do about a code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Remedy {
    /// Where to look, and what the cause mostly is.
    pub look: &'static str,
    /// What to do.
    pub mend: &'static str,
}

macro_rules! remedies {
    ($($variant:ident $look:literal $mend:literal,)*) => {
        impl Code {
            /// What the handbook says about it.
            pub fn remedy(self) -> Remedy {
                match self { $(Self::$variant => Remedy { look: $look, mend: $mend },)* }
            }
        }
    };
}

remedies! {
    // Requests.
    InvalidName "The message quotes the name and the hint says which characters such a name may have. Nothing was changed." "Choose a name by that rule and ask again.",
    InvalidRequest "The message names the field, or what of the form is wrong: no JSON or YAML, a field that does not exist, one that is there twice, a body that is too large. Nothing was changed." "Compare it with the [REST reference](rest.md) or the [fields of a declarative file](declarative.md). A field that a newer version has is unknown to an older daemon: `tranche --version`, `tranched --version`.",
    InvalidValue "The message names the value and the hint the range. In a declarative file it also says that something is declared twice, or that a thing which exists cannot be changed in this way." "Choose a value in the range. To change what cannot change, delete the thing and make it anew.",
    HostNotFound "`tranche host list` shows the hosts that are known. One that has joined and not reported yet is `host_silent`." "Correct the name. If the host is missing: `tranche cluster status`, and `journalctl -u tranched` on that host.",
    GpuNotFound "`tranche gpu list` shows hosts and addresses. A card that was moved has another address." "Use the address from that list; in a cluster `HOST/ADDRESS`. If a card is missing: `lspci` on the host, then `tranche inspect`.",
    VmNotFound "`tranche vm list` shows the VMs that Tranche knows; `virsh list --all` on a host shows libvirt's own." "Correct the name, make the VM (`tranche vm create`), or take an existing domain over (`tranche vm adopt NAME`).",
    DomainNotFound "A VM can only be adopted on the host whose libvirt has it: `virsh list --all` there." "Ask on that host, with the domain's exact name, or make a new VM (`tranche vm create`).",
    ModelNotFound "`tranche catalogue list` shows the models that are known." "Use a part of a name from that list. What the catalogue does not know can be added in `/etc/tranche/catalogue.d`; a GPU works without an entry, too.",
    OperationNotFound "Only the latest operations are remembered: `tranche operation list`." "Look at the thing itself instead (`tranche vm show`, `tranche gpu show`): its state tells what became of the wish. `tranche audit` has what was asked.",
    VmExists "A VM of that name exists, is just being deleted, or was deleted while its host was down and waits for that host: `tranche vm show NAME`." "Choose another name, or wait until the old one is gone. If its host never comes back: `tranche cluster remove HOST`.",
    DomainExists "`virsh dominfo NAME` on the host: somebody made that domain without Tranche." "Take it over (`tranche vm adopt NAME`), rename it in libvirt, or choose another name.",
    UserNotFound "`tranche user list` shows the users." "Correct the name, or make the user: `tranche user create NAME --role ROLE`.",
    TokenNotFound "`tranche token list` shows the tokens, those that have ended, too." "Correct the name. A token that is not in the list opens nothing.",
    UserExists "`tranche user list` shows who has the name." "Change that user (`tranche user set`), let them in (`tranche user link`), or choose another name.",
    TokenExists "`tranche token list` shows it; an ended token keeps its name until it is revoked." "Choose another name, or `tranche token revoke NAME` first. Whoever uses that token is then shut out.",
    PasswordWeak "The message says what is wrong with it." "Choose a longer one, such as four or five words, or none at all: `tranche user link NAME` lets somebody in once.",
    LoginRequired "No token or session came with the request, or it has ended: `tranche token list` shows until when tokens hold." "Log in again. Programs send `Authorization: Bearer`; see [access](access.md).",
    LoginFailed "The answer does not tell whether the name or the password is wrong. `tranche audit` on a host shows who was refused. A link opens once, within 15 minutes." "Try again, or make a link on a host: `tranche user link NAME`.",
    LoginStale "The way back from the issuer has to be taken in the same browser, once, and within ten minutes. A proxy that serves the console by two names does this, too: the browser keeps the attempt for one of them." "Begin anew from the login page. If it never works: set `oidc.redirect_url` to the address by which people come.",
    IssuerMissing "`[oidc]` in the settings of the host that was asked names no issuer." "Log in with a password or a one-time link (`tranche user link NAME`), or set `oidc.issuer` on each host and restart `tranched`.",
    IssuerUnreachable "The message says what the issuer answered or did not; `journalctl -u tranched` has more. From the host itself: `curl ISSUER/.well-known/openid-configuration`." "Mend the way there, the name, the certificate (`oidc.authority`) or a proxy between. Passwords and one-time links work meanwhile.",
    IssuerRefused "The message has the issuer's word. Mostly the client is unknown there, its secret is another, or the address to come back to is not on its list." "Compare `oidc.client_id`, the secret's file and `oidc.redirect_url` with what the issuer has.",
    IssuerSecretUnreadable "The file that `oidc.client_secret_file` names is missing, empty, too large, or others than its owner may read it." "`chown root:root FILE; chmod 600 FILE`, with the secret alone in it. It is read at each login; nothing need be restarted.",
    IdTokenInvalid "The log says which check failed: signature, issuer, audience, time or nonce. Clocks may differ by 60 s." "`timedatectl` on the host first. Then compare `oidc.issuer` and `oidc.client_id` with what the issuer has, letter by letter. One that goes on: somebody may have forged it.",
    NoRole "Whoever logged in is in no group of `[oidc.roles]`, or the issuer does not tell groups: many want another scope for that." "Add the group to `[oidc.roles]` on each host, set `oidc.groups_claim`, or ask for the scope in `oidc.scopes`.",
    LoginThrottled "There were too many failures from this address, or for this user: `tranche audit`. Each host counts for itself." "Wait as long as the message says. If it was not you, somebody tries passwords: see who can reach port 7440.",
    Forbidden "[Roles](roles.md) has what each request needs; `tranche user list` what everybody may." "Ask somebody with that role, or have yours changed: `tranche user set NAME --role ROLE`. On the host's socket root and the group `tranche` may everything.",
    VersionConflict "Somebody else changed the same thing at the same moment: `tranche audit`, `tranche operation list`. Nothing was done by this request." "Look at the thing again, then repeat.",
    // Hosts.
    IommuOff "`ls /sys/class/iommu` is empty. `dmesg | grep -i -e DMAR -e IOMMU -e AMD-Vi` tells whether the firmware offers one." "Switch on VT-d or AMD-Vi in the firmware. With Intel boot with `intel_iommu=on`; then reboot and look again: `tranche doctor`.",
    LibvirtDown "`systemctl status libvirtd` (or `virtqemud`), `virsh -c qemu:///system list`, and free space in `/var`. VMs that run go on; nothing is started or released meanwhile, because nobody knows what runs." "Start libvirt again. Tranche goes on by itself within seconds.",
    LibvirtSlow "A start may take minutes while all of a large guest's memory is pinned for its device. `virsh domjobinfo VM`, `top` and `dmesg` on the host." "Mostly wait. If nothing moves for many minutes, look whether QEMU hangs in a device's driver (`dmesg` names the task).",
    HostSilent "The daemon there has just been started and still looks at its hardware, or it hangs: `journalctl -u tranched` on that host." "Wait a moment. If it stays so: `systemctl restart tranched` there; VMs are not touched by it.",
    HostUnattended "`systemctl status tranched` on that host: somebody stopped it. Its VMs run on, but nothing would start them elsewhere." "Start it again. If the machine is off by now, say so: `tranche host confirm-down HOST`.",
    HostUnread "`tranche cluster status` shows the versions. A host with a later version wrote something that an older one cannot read; nothing new is begun there." "Bring the other hosts up to date, in the order of `tranche cluster upgrade-plan`.",
    HostLost "Power, network, `tranched` and the store of that host, in this order; `tranche cluster status` from another one. It is told within seconds whether it is given up." "Nothing at first: what happens next is decided by [fencing](fencing.md). Bring the host back, or repair its network.",
    HostUnfenced "The host is silent, and nobody can prove that its VMs do not run. Go and look: its power, its BMC, its console." "Turn it off, then say so: `tranche host confirm-down HOST`. **If you say so while it runs, its VMs run twice and ruin their disks.** For the next time, give it a watchdog or a fence agent.",
    HostUnguarded "`tranche host show HOST` shows neither watchdog nor fence agent, and it has VMs that are to start elsewhere." "Load its watchdog's driver or name an agent, see [fencing](fencing.md); or let its VMs stay (`tranche vm set VM --failover stay`).",
    HostFencing "`tranche findings` tells if the agent fails; `journalctl -u tranched` on the host that leads has what it said." "Wait. If the agent cannot do it: turn the host off by hand, then `tranche host confirm-down HOST`.",
    HostDown "`tranche host show HOST` says by what it is known to be down. Its protected VMs start elsewhere." "Turn it on when it is repaired; it comes back by itself. For good: `tranche cluster remove HOST`.",
    HostNotEmpty "The message names the VMs." "Empty it first: `tranche host drain HOST`, or stop and delete them.",
    HostNotSilent "Its heartbeats arrive, so it runs. Is it the host that you mean?" "To empty it: `tranche host drain HOST`. To cut it off, turn its power off, then ask again.",
    HostMaintenance "Somebody drained it: `tranche audit` says who and when." "`tranche host undrain HOST` when the work is done.",
    ClockOff "`timedatectl` on both hosts: is NTP on, and does it reach a server?" "Switch NTP on (`timedatectl set-ntp true`). Failover does not rest on clocks, but certificates and shown times do.",
    HostDeparting "Somebody shuts the host down or reboots it. Its VMs are seen to as the policy `shutdown` says." "Nothing. To call it off before it goes down: `tranche host stay HOST`.",
    DrainBlocked "`tranche why-not VM HOST` says of each other host why it does not take the VM: no room, a rule, a disk that only this host has." "Make room elsewhere, or stop the VM. The drain goes on by itself.",
    LiveDevice "`tranche gpu show GPU`, section *live migration*, says who was asked and what the answer was." "Use a driver that hands out the state of a partition ([migration](migration.md)), or let the VM be restarted: `tranche vm set VM --migration live-or-restart`.",
    LiveDirtyLog "Neither the device's driver nor the IOMMU is known to log what the device writes: `tranche gpu show GPU`." "A driver that logs it, or an IOMMU that does, with QEMU 9.1 and libvirt 12.1 on both hosts ([migration](migration.md)).",
    LiveUnlike "`tranche cluster homogeneity` shows what differs between the two cards: model, profile, driver, firmware, ECC." "Make them alike as it says; then `tranche vm destinations VM` again.",
    LiveProcessor "`lscpu` on both hosts: the guest sees its host's processor, and the other host has another model." "Move it to a host with the same processor, or let it be restarted there.",
    LivePause "`tranche vm destinations VM` shows the forecast: how much memory the guest changes, and what the link carries." "Move it when the guest is quieter, use a faster link, allow a longer pause (`tranche vm set VM --migration-pause-ms MS`), or let it be restarted.",
    LivePrograms "`tranche host list` and `virsh version` on both hosts. A VM only moves to a QEMU and libvirt that are as new as its own." "Bring the other host up to date.",
    LiveGuest "The message names the part of the VM's machine that is bound to its host." "Take that part out (`virsh edit VM`, from its next start on). An adopted VM does not move: make it with Tranche instead.",
    MigrateFailed "`tranche operation show ID` and `journalctl -u tranched -u libvirtd` on both hosts. The VM runs on where it was." "Put right what libvirt says. It is tried again, or restarted there, as the VM's policy says.",
    MigrateQueued "Two VMs move at a time. `tranche operation list` shows which." "Nothing; its turn comes.",
    MigrateLiveOnly "`tranche vm destinations VM` says of each host what stands against it." "Mend that, or allow a restart: `tranche vm set VM --migration live-or-restart`.",
    MigrateBlocked "`tranche why-not VM HOST` says why, of each host; the other findings of the refusal do, too." "Make room there, name no host (any will do then), or take the move back: `tranche vm migrate VM --to ITS-HOST`.",
    InvitationRefused "A token serves one VM, for the time that it was made for: `tranche vm invitations` on the host that made it." "Make a new one there: `tranche vm invite`.",
    PeerSilent "`curl -k https://HOST:7440/healthz` from the VM's host. A certificate that was renewed since the token was made is another one." "Open that port between the two hosts; then a new token: `tranche vm invite` there.",
    HandoverInCluster "`tranche cluster status`: the host is a member." "Inside a cluster VMs move by `tranche vm migrate VM --to HOST`. A host that stands alone brings its VMs along when it joins.",
    VmOnItsWay "`tranche vm show VM` on both hosts says how far it is. Until it has arrived it is its old host's." "Wait. If the other host is gone for good **and does not run the VM**: `tranche vm take-back VM --force` where it was, or `tranche vm take-over VM --force` where it was to go. Only one of the two.",
    VmNotOnItsWay "`tranche vm show VM`." "Nothing is to be done.",
    HandoverSilent "Is the other host up, and does its console's port answer? `curl -k https://HOST:7440/healthz`. The VM may run there already." "Bring that host or the network back; it goes on by itself. If it is gone for good **and does not run the VM**: `tranche vm take-back VM --force`.",
    Migrated "`tranche vm list` shows that it is where it should be." "Nothing.",
    FailoverPaused "`tranche audit` says who paused it. While it is paused, a host that dies takes its VMs with it." "`tranche cluster resume` when the work on network or store is done.",
    KvmMissing "`ls -l /dev/kvm`, and whether the firmware has virtualisation (VT-x, AMD-V) on. In a VM, nesting must be on." "Switch it on in the firmware, or load `kvm_intel` or `kvm_amd`. Emulated VMs work and are slow.",
    CatalogueInvalid "The message has the file and the line." "Correct the file in `/etc/tranche/catalogue.d`, then `systemctl restart tranched`. Until then all of that file is left out.",
    CallStuck "`dmesg` names the task that hangs. Mostly something has the device open, or its driver has a fault. Nothing else is tried on this GPU." "End whoever has it open (`tranche gpu show` names them). If the call never returns, only a reboot of the host ends it: drain it first.",
    Busy "Too many ask at once, or the host is overloaded: `top`, `tranche_*` in `/metrics`." "Ask again in a moment. Programs that poll should use the event stream (`/v1/events`).",
    // Fencing.
    WatchdogMissing "`ls /dev/watchdog* /sys/class/watchdog`. Servers mostly have one in the chipset or the BMC, whose driver is not loaded." "Load it ([fencing](fencing.md) says which), or use a fence agent.",
    WatchdogBusy "The hint names who has it: systemd (`RuntimeWatchdogSec`), the `watchdog` package, or a cluster manager." "Have that one let go of it, then wait for the next look.",
    WatchdogUnfit "The message says why: it cannot be set short enough, was not started, or cannot be stopped. `journalctl -k` has the driver's reason." "Another watchdog, longer times (`tranche policy set`), or a fence agent.",
    WatchdogSoftware "It is `softdog`: a timer of the host's own kernel." "It helps against a daemon or store that hangs, not against a kernel that does. Use a hardware watchdog where there is one.",
    WatchdogFired "The host was reset because its heartbeats were not confirmed in time, or its daemon hung: the log before the reset (`journalctl -b -1`), `tranche cluster status`." "Find out what kept it: network, store, load. If it happens often, the times are too short for this network.",
    FenceAgentUnusable "`ls -l /usr/sbin/fence_*` on the host that the message names: the agent must belong to root and be writable by nobody else." "Install it (`apt install fence-agents-…`), or choose one that turns power off and can tell that it is off.",
    FenceOptionInvalid "`man fence_NAME` has the options; the message says which one is wrong. Some are not allowed, because the agent would run or write other things as root." "`tranche host set HOST --fence-option NAME=VALUE` with the right one.",
    FenceSecretUnreadable "`ls -l /etc/tranche/secrets` on the host that the message names: every host needs the file, with mode 0600, owned by root." "Put the file there. It is tried again by itself.",
    FenceFailed "The message has what the agent said. Try it by hand with its status action; look at the BMC's network, name and password." "Put that right. If a host waits to be cut: turn it off by hand, then `tranche host confirm-down HOST`.",
    // What VMs use of hosts.
    StorageMissing "`virsh pool-list --all` on the host." "Define the pool as it is elsewhere and start it: `virsh pool-start POOL`, `virsh pool-autostart POOL`.",
    StorageLocal "The pool is of a kind that only one host has (a directory, LVM). `virsh pool-dumpxml POOL`." "Move the disk to storage that hosts share (NFS, Ceph, Gluster, iSCSI), or accept that the VM waits for its host.",
    NetworkMissing "`virsh net-list --all` on the host." "Define the network as it is elsewhere and start it: `virsh net-start NET`, `virsh net-autostart NET`.",
    DefinitionLocal "It was adopted, so only its own libvirt has its definition." "A VM that shall run on several hosts is made by Tranche (`tranche vm create`) on shared storage.",
    // GPUs.
    NoPartitionableGpu "`lspci -nn | grep -i -e vga -e 3d -e display`, then `tranche inspect`: what was found, and what each lacks." "Install the vendor's host driver for virtualisation and switch on SR-IOV in the firmware; [hardware](hardware.md) has what each family needs.",
    NotPartitionable "`tranche gpu show GPU`; the card has no SR-IOV and its driver offers no mediated devices." "Give it whole to a VM: `tranche gpu passthrough GPU`.",
    SriovDisabled "`lspci -vvs ADDRESS` shows the capability with *Total VFs: 0*; firmware or driver keep them off." "Switch on SR-IOV and *Above 4G decoding* in the firmware, and virtual functions in the driver's options ([hardware](hardware.md)); reboot.",
    DriverMissing "`lspci -ks ADDRESS`: no *driver in use*. `dmesg` tells why it did not load (secure boot, an unfit kernel)." "Install and load the vendor's host driver.",
    DriverWithoutSriov "The driver that is bound switches no virtual functions: a driver for desktops instead of that for hosts, or a kernel without it." "Install the driver for virtualisation hosts, or a kernel whose driver can ([hardware](hardware.md)).",
    InvalidPartitionCount "The hint lists what the driver offers now; `tranche gpu show GPU` has it with sizes." "Choose one of those. Another series may offer others (`--series`).",
    InvalidPartitionSizes "The hint says how many of each profile fit beside each other." "Choose other sizes, fewer of them, or equal ones: `tranche gpu partition GPU COUNT`.",
    CountFixed "The driver takes its count only when it is loaded." "`tranche gpu partition GPU N --reload-driver`: every VM on every GPU of that driver is shut down for it. `--dry-run` names them.",
    DriverReload "`--dry-run` names the VMs that stop." "Nothing; they start again where there is room. If the driver refuses the count, all goes back.",
    ReloadFailed "The message has what the helper said; `journalctl -u 'tranche-modules@*'` and `dmesg` the rest. Mostly something has the driver open." "End that (`lsof /dev/dri/*`), then ask again. The count that was there before is restored.",
    PartitionsInUse "The message names who has them; `tranche partition list --gpu GPU`. Nothing was touched." "Repeat with `--drain` (its VMs are shut down and start again where there is room), or stop them yourself.",
    ModeChanging "`tranche gpu show GPU` says what it waits for." "Wait. A guest that does not shut down: `tranche vm restart VM --force`.",
    VmDrained "`tranche operation list` shows for which change." "Nothing; it starts again where there is room.",
    RolledBack "The other findings and `tranche operation show ID` say what failed; `dmesg` what the kernel said." "Put that right, then ask again.",
    ModeConflict "`tranche gpu show GPU` shows the mode that it has." "`tranche gpu release GPU` first, or ask for the new mode with `--drain`.",
    ConsoleGpu "The host's screen is on this card; it goes dark when the card is given away." "If the host is reached by network: `--allow-console`. Else use another card for the console (a setting of the firmware).",
    FirmwareOpen "Nothing is wrong: it is told of every GPU that is given whole to VMs." "Give it only to VMs that you trust with the card itself; others get partitions.",
    NoReset "`cat /sys/bus/pci/devices/ADDRESS/reset_method` is empty." "Give it only to VMs that trust each other, or reboot the host in between. A newer kernel may know a way.",
    GroupShared "`ls /sys/bus/pci/devices/ADDRESS/iommu_group/devices` shows who shares it." "Another slot, or ACS in the firmware. Overriding ACS in the kernel takes the isolation away and is not recognised.",
    WrongDriver "`lspci -ks ADDRESS`. Somebody bound it: a udev rule, `driverctl`, a script, a driver's option." "Tranche binds it anew by itself. If it comes back, remove what takes it.",
    VariantMissing "`modinfo` of the driver that the message names: it is not there, or not loaded." "Install a kernel that has it; it is loaded by itself when it is needed. Without it partitions work, and VMs do not move while they run.",
    FewerPartitions "`dmesg | grep -i -e 'not enough MMIO' -e 'BAR' -e 'bus'`: the firmware left too little address space or too few bus numbers." "Raise *MMIO high size* or *Above 4G decoding* in the firmware, try another slot, or boot with `pci=realloc`.",
    PartitionLost "`dmesg`: the GPU failed, its driver was loaded anew, or somebody switched its functions off by hand." "`tranche vm stop VM`: its next start gets another partition. If the card failed, see `gpu_sick`.",
    ReservationFailed "`tranche partition list`; the GPU of the reserved partition is sick, gone or being changed." "Mend the GPU, or give the reservation up: `tranche vm detach VM`, then `tranche vm attach VM`.",
    PartitionUnready "It is being made or bound: `tranche operation list`, `tranche gpu show GPU`." "Wait; the VM starts by itself.",
    ForeignPartition "`tranche gpu show GPU` lists them; somebody made them by hand, with a script or at boot." "Remove them and what makes them, or leave the GPU in mode `host`.",
    ForeignUse "The message names the domain or the process." "Take the domain over (`tranche vm adopt NAME`), or end that use. Until then it is given to nobody.",
    HardwareChanged "`lspci -nn` and the serial numbers: was the card replaced?" "If so, set its mode again (`tranche gpu partition GPU N`). If not, put the old card back.",
    GpuMoved "`tranche gpu list` shows where it is now: it was put into another slot, or the firmware numbers buses anew." "Set its mode at the new address, then release the old one; or put it back.",
    GpuSick "`dmesg`, `tranche gpu show GPU` (health), and the vendor's tool. VMs that run are left to run; no new one is placed there." "As the hint says: move its VMs away, reset it, restart the host, or have the card checked. It serves again by itself once it is well.",
    GpuGone "`lspci` no longer shows it: it fell off the bus, or was taken out. `dmesg` has when." "A cold start of the host often brings it back; check seat, power and temperature. For good: `tranche gpu release GPU`.",
    CatalogueMismatch "`tranche catalogue check` has both figures. What the kernel shows is used." "Correct it in `/etc/tranche/catalogue.d`, and please report it.",
    // Homogeneity.
    UnlikeVendor "`tranche cluster homogeneity` names the odd ones." "Use cards of one vendor for VMs, or leave the odd ones to the host (`tranche gpu release`).",
    UnlikeDevice "`tranche cluster homogeneity` names the odd ones." "Use cards of one model, or leave the odd ones to the host.",
    UnlikeSubsystem "`tranche cluster homogeneity`; `lspci -vnn` shows the boards." "Only live migration minds. Use boards of one kind where VMs shall move while they run.",
    UnlikeMemory "`tranche cluster homogeneity` has the sizes." "Cards with the same memory, or leave the odd ones to the host.",
    UnlikeBackend "`tranche gpu show` of one of each: other driver versions or kernels make partitions in other ways." "The same driver and kernel on all hosts.",
    UnlikeOffers "`tranche gpu show` of one of each: other drivers offer other counts." "The same driver on all hosts.",
    UnlikeCount "`tranche gpu list` shows the counts." "One count for all: `tranche gpu partition --all --count N` (`--drain` where VMs are on them).",
    UnlikeSeries "`tranche gpu show` of one of each shows the series." "Split them alike: `tranche gpu partition --all --count N --series S`.",
    UnlikeDriver "`tranche cluster homogeneity` has the versions by host." "Install the same version on all hosts; drain each first.",
    UnlikeFirmware "`tranche cluster homogeneity` has the versions by host." "The same firmware, with the vendor's tool; drain each host first.",
    UnlikeEcc "`tranche cluster homogeneity` says where it is on." "The same setting, with the vendor's tool; it holds from the next reset on.",
    BreaksHomogeneity "`--dry-run` and `tranche cluster homogeneity` show what would differ." "Change all at once (`tranche gpu partition --all --count N`), or allow it: `tranche policy set --homogeneity warn`.",
    SetUnlike "The message lists the configurations; `tranche cluster homogeneity` has the details." "Choose one set: `--like HOST/ADDRESS`, or name GPUs with `--gpu`.",
    NoHomogeneousSet "`tranche cluster homogeneity` shows in what they differ." "The same card and driver in all hosts, or split each on its own.",
    SelectionUnlike "The message lists the configurations of the chosen ones." "Choose GPUs of one configuration; `--like` does it for you.",
    SetIncomplete "The message names those that are left out." "Leave `--gpu` out to change all of them, if that is what you mean.",
    SetChange "The message names the VMs that are interrupted; `--dry-run` shows each." "Apply exactly what you saw: the same command with `--version`.",
    VersionChanged "Between preview and change something else happened: `tranche audit`. Nothing was done." "Look at the preview again and apply its version.",
    Drift "Somebody changed it by hand, or a driver was loaded anew: `journalctl -u tranched`, `dmesg`." "Nothing; it is put right as soon as nothing has it open. Change GPUs by `tranche gpu partition` and the like; by hand it does not last.",
    KernelRefused "The message has the file and the error; `dmesg` mostly the reason." "By the reason. It is tried again by itself; `tranche findings` tells when it is over.",
    // VMs.
    VmRunning "`tranche vm show VM`." "Stop it first, or repeat with `--restart`: it is shut down, changed and started again.",
    VmNotRunning "`tranche vm show VM` says why it is off." "`tranche vm start VM`.",
    VmElsewhere "`tranche vm list` shows its host." "Repeat the command on that host.",
    ConsoleBusy "One at a time has a VM's serial console: another window, another person (`tranche audit`), or `virsh console` on its host." "Wait, or take it over: `tranche vm console VM --force`, or the button on its page. Whoever has it is cut off.",
    ConsoleMissing "`virsh dumpxml VM` on its host: a serial console needs a first `serial` port of type `pty` or `unix`, a screen needs `graphics` of type `vnc`. VMs that Tranche makes have both." "Add what is missing to an adopted domain (`virsh edit VM`); it is there from its next start.",
    VmHasPartition "`tranche vm show VM` shows what it asks for. A VM has one partition at most." "`tranche vm detach VM` first.",
    VmHasNoGpu "`tranche vm show VM`." "`tranche vm attach VM --gpu any` gives it one.",
    NoFreePartition "`tranche partition list` shows who has them, `tranche why-not VM HOST` what stands against each host." "Nothing: it starts by itself when one is free. Or split another GPU, or stop what is not needed.",
    NoFreeGpu "`tranche gpu list` shows the GPUs for passthrough and who has them." "Nothing: it starts by itself. Or `tranche gpu passthrough GPU` adds one.",
    NoFreeMemory "`tranche cluster capacity` shows memory and processors of each host." "Stop what is not needed, add memory, or give more virtual processors away: `tranche policy set --vcpus-per-cpu N`.",
    CapacityShort "`tranche cluster capacity` names the host whose loss could not be made good, and the VMs that would be left." "Add room, let some VMs stay (`--failover stay`), or say what is to happen: `tranche policy set --admission warn`.",
    HostClosed "The message says why that host takes no VMs: maintenance, about to go down, down, no libvirt." "`tranche host undrain HOST`, or bring it back. The VM starts by itself.",
    SizeMismatch "`tranche gpu list` and `tranche partition list` show the sizes that there are." "Change the request (`tranche vm detach`, then `attach`), or split a GPU into such partitions.",
    PoolMismatch "`tranche gpu list` shows the pools." "Put the GPU into that pool while it is free, or ask for another pool.",
    GuestUnsupported "The vendor's list of guest systems; this is a remark, and the VM starts." "Nothing, if it works.",
    GuestPoweredOff "The guest was shut down from within, saved, or moved by hand; `virsh domstate --reason VM`." "`tranche vm start VM` when it is wanted again. If it was moved by hand, make sure first that it runs nowhere else.",
    StartedByHand "Somebody used `virsh start`; it runs without its GPU." "`tranche vm restart VM` runs it under Tranche, `tranche vm stop VM` turns it off.",
    VmWithoutGpu "`tranche vm show VM`; it was started by hand, or adopted while it ran." "`tranche vm restart VM` gives it one.",
    VmPaused "`virsh domstate --reason VM` on its host; after an I/O error its storage is full or gone: `df -h`." "Make room, then `virsh resume VM`.",
    ShutdownSlow "The guest ignores the power button, or is busy: its screen or `virsh console VM`." "Wait: one that has to leave its host is turned off after five minutes. Or `tranche vm stop VM --force`: as pulling its plug.",
    DomainIdentity "`virsh domuuid VM`: somebody defined another domain of that name. Nothing is done to it." "`tranche vm delete VM`, then `tranche vm adopt VM` takes the new one over; or put the old definition back.",
    DomainMissing "`virsh list --all`: somebody undefined it." "Define it again (`virsh define FILE`), or forget it: `tranche vm delete VM`.",
    DomainTransient "`virsh dominfo VM` says *Persistent: no*." "`virsh dumpxml VM > VM.xml`, then `virsh define VM.xml`.",
    ForeignDevice "`virsh dumpxml VM | grep -A6 hostdev`." "Take that device out (`virsh edit VM`), then `tranche vm attach VM`.",
    VmWaitsForHost "`tranche vm show VM`: it has `--failover stay`, was adopted, or its host is being rebooted." "Bring the host back. If it does not come: `tranche host confirm-down HOST`; a VM with `--failover restart` then starts elsewhere.",
    VmFalls "`/var/log/libvirt/qemu/VM.log` on its host, and the guest's own log: it crashed, or QEMU did." "Find out why. Meanwhile it is tried again after growing pauses, then elsewhere.",
    VmGivenUp "`/var/log/libvirt/qemu/VM.log` on each host where it was tried." "Mend that, then `tranche vm start VM`: the count begins anew.",
    LibvirtRefused "The message has libvirt's own words; `journalctl -u libvirtd` more." "By those words: a missing disk or network, too little memory, an unknown option. It is tried again by itself.",
    // Rules.
    RuleNotFound "`tranche rule list` shows the rules." "Correct the name.",
    RuleContradiction "The message says which rules or hosts contradict each other." "Change or delete one, or make it a preference (without `--strict`).",
    RuleWaits "`tranche rule show RULE`, `tranche why-not VM HOST`." "Make room where it may run, or let the rule be a preference.",
    RuleForbids "`tranche rule show RULE` tells what it asks." "Choose another host, or change the rule.",
    RuleBroken "The rule came after the VM started, or it was adopted there; it is left running." "`tranche vm stop VM`, then `tranche vm start VM`: it is placed anew. Or move it: `tranche vm migrate VM`.",
    RuleFailback "The preferred host is back and has room." "`tranche vm migrate VM --to HOST`, or let it happen by itself: `tranche rule set RULE --failback`.",
    // Clusters.
    ClusterAlready "`tranche cluster status` shows which." "To change clusters: drain the host, `tranche cluster leave`, then join.",
    ClusterNone "`tranche cluster status`: this host stands alone." "`tranche cluster init` begins a cluster, `tranche cluster join TOKEN` takes it into one.",
    ClusterBusy "`tranche cluster status` shows how far it is." "The same command again goes on; `tranche cluster leave` gives it up.",
    ClusterUnreachable "`systemctl status tranched` on the members, and a firewall: `nc -zv ADDRESS 7443` from here." "Open TCP 7443 to 7445 between all hosts, then repeat.",
    ClusterUntrusted "Is the address right, and was the token made by this cluster? The token's secret was not sent." "Make a new token on the cluster that you mean. If both were right, somebody is between the two: find out who.",
    NoLeader "`tranche cluster status`: which members of the store answer? A majority must." "Wait some seconds. If it stays so, bring members back; VMs run on meanwhile.",
    LeaderUnreachable "The network between this host and the one that leads, port 7443." "Look what was done (`tranche operation list`), then repeat. If the leader is down, another one leads within seconds.",
    HistoryUnavailable "Each host keeps its own history: `tranche host list` shows whether that one is up, and `journalctl -u tranched` there what its file suffers from." "Mend the host, or the way there. A history that is damaged is put aside and begun anew by itself.",
    TokenInvalid "A token serves one machine, once, for half an hour." "Make a new one on a member: `tranche cluster token create`.",
    BackupInvalid "Is the file whole, and as `tranche cluster backup` wrote it? Its checksum is part of it." "Use another backup, with this version of Tranche or a later one.",
    HostExists "`tranche cluster status`: a host, or a VM, of that name is there already." "Another name (`host` in `tranched.toml`); for replaced hardware `tranche cluster replace HOST`.",
    HostHasVms "The message names them." "`tranche host drain HOST`, or delete them. Of a host that is gone: `tranche cluster remove HOST --forget-vms`, which `--dry-run` shows first.",
    HostAlive "`tranche cluster status`: something is heard of it, or nobody knows that it is off." "If it works: `tranche cluster leave` there. If it is off for good: `tranche host confirm-down HOST`, then remove it.",
    VmForgotten "`tranche audit` says by whom. Its disks stay." "To have it again: `tranche vm create` with the same disks.",
    AddressTaken "`tranche cluster status` shows who has it." "Another `--address`, or other ports in `tranched.toml`.",
    WitnessUseless "`tranche cluster status`: three members keep the store already." "Nothing is missing without it.",
    LastHost "`tranche cluster status`: no other host runs VMs." "Let another one join first, or keep a cluster of one.",
    StoreMemberFailed "`journalctl -u tranche-etcd`; is `etcd-server` installed, are ports 7444 and 7445 free?" "Put that right; the same command again goes on where it stopped.",
    StoreMemberDown "`tranche cluster status`; on that host `systemctl status tranche-etcd`, its disk and its network." "Bring it back. For good: `tranche cluster remove HOST`, its seat goes to another one.",
    StoreMemberCorrupt "The members' data were compared and differ: look at disk, memory and file system of that host." "Make a backup at once. Then take that host out (drain, leave) and let it join anew; have its hardware checked.",
    StoreWithoutMajority "`tranche cluster status`: one or two members." "A third host, or any small machine as a witness.",
    StoreOutOfSpace "`tranche cluster status` shows file and quota. VMs run on; nothing is decided." "`tranche cluster defragment`, which also takes the alarm back. Raise `etcd.quota_mib` if it comes again.",
    StoreNearQuota "`tranche cluster status`; does something else use this etcd?" "`tranche cluster defragment`, or a larger `etcd.quota_mib`.",
    SeatNotTaken "`journalctl -u tranched -u tranche-etcd` on that host." "Mend that. If the host is gone: `tranche cluster remove HOST`.",
    AuthorityExposed "A host that kept the store was removed, and its disk has the authority's key." "Erase that disk. If somebody else may have it, begin the cluster anew from a backup.",
    StoreFragmented "`tranche cluster status`." "`tranche cluster defragment`, when it suits you.",
    CertificateEnds "A host's certificate is renewed by itself: why not this one? `journalctl -u tranched`, and whether a host that may sign is up." "Bring such a host back. Of the authority itself: begin a new cluster from a backup.",
    VersionMismatch "`tranche cluster status` names the version that rules, the oldest." "Install that version on the host, or bring the cluster up to date first.",
    VersionsDiffer "`tranche cluster upgrade-plan` shows the order." "Go on with the upgrade; what is new is used once all have it.",
    // Invariants.
    Invariant "This is a defect. Nothing is carried out while it stands; VMs run on." "`tranche support-bundle`, and report it. `systemctl restart tranched` does no harm.",
    // Store.
    StoreUnavailable "`journalctl -u tranched`: disk, rights of `/var/lib/tranche`, in a cluster `tranche cluster status`." "Put that right; it goes on by itself.",
    StoreReadOnly "`mount | grep /var`, `dmesg`: a file system that had errors is mounted read-only." "Check the disk and mount it for writing again, then `systemctl restart tranched`.",
    StoreSlow "Disks and network of the members: `tranche cluster status`, `journalctl -u tranche-etcd`, `iostat -x 1`. While it is slow, no host is given up." "Faster disks, less load beside it, or a longer `election_ms` on every host and in the policy.",
    StoreFull "`df -h /var/lib/tranche`. VMs run on; nothing is decided." "Make room; it goes on by itself.",
    StoreCorrupt "`journalctl -u tranched` names the record or the file; `dmesg` and the disk's own log." "A single record: stop the daemon, `tranched --set-aside KEY`, start it. The whole file: put a backup of `tranche.db` back.",
    StoreInUse "`fuser /var/lib/tranche/tranche.db`: another daemon, or a tool, has it open." "End that one.",
    StoreForeign "`state_dir` in `tranched.toml` points to somebody else's file." "Correct it, or move that file away.",
    StoreNewerVersion "`tranched --version`: the store was written by a later one." "Install that version, or put a backup from before the upgrade back.",
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_sentences_of_its_own_about_where_to_look_and_what_to_do() {
        for code in Code::ALL {
            let Remedy { look, mend } = code.remedy();
            for text in [look, mend] {
                assert!(text.len() >= 8 && text.ends_with(['.', '?']), "{code}: {text:?}");
                assert!(
                    text.starts_with(|first: char| first.is_uppercase() || first == '`' || first == '['),
                    "{code}: {text:?}"
                );
            }
            assert_ne!(look, mend, "{code}");
        }
    }
}
