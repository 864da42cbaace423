//! Commands that only look.

use expect_test::expect;
use tranche_api::answer::{Diagnosis, WhyNot};
use tranche_api::cluster::{ClusterView, StoreSeat};
use tranche_api::view::GpuView;
use tranche_core::capacity::{Capacity, HostCapacity, SizeCapacity, Stranded};
use tranche_core::inventory::{Ecc, PartitionTelemetry, Telemetry};
use tranche_core::membership::StoreAnswer;
use tranche_core::name::RuleName;
use tranche_core::operation::OperationState;
use tranche_core::spec::{Request, Rule};
use tranche_core::upgrade::{UpgradePlan, UpgradeStep, UpgradeTurn};

use crate::daemon::Daemon;
use crate::fixtures::{
    ASK_OPERATION, a2, desk_01, desk_02, host, igb, member_of_a_cluster, no_room, operation, partitions,
};
use crate::{check, run};

#[test]
fn hosts_are_sheets() {
    let daemon = Daemon::new().answers("GET /v1/hosts", &[host()]);
    check(
        &daemon,
        &["host", "show"],
        expect![[r#"
        Host        node1
        Kernel      6.12.57+deb13-amd64
        Processor   32 x AMD EPYC 7313
        Memory      128 GiB
        IOMMU       on (ivhd0)
        libvirt     11.3.0, QEMU 10.0.2
        GPUs        2
        Partitions  4, 3 free
        VMs         2, 1 running
        Reported    2026-11-22 16:00:00
        exit 0
    "#]],
    );
}

#[test]
fn gpus_are_a_table_in_which_stand_ins_are_marked() {
    let daemon = Daemon::new().answers("GET /v1/gpus", &[igb(), a2()]);
    check(
        &daemon,
        &["gpu", "list"],
        expect![[r#"
        GPU                            MODEL                   STATUS         PARTITIONS  FREE  VALID COUNTS  MEMORY  DRIVER
        node1/0000:01:00.0 (emulated)  Intel 82576 (stand-in)  partitioned    4           3     1-7           -       igb
        node1/0000:41:00.0             NVIDIA A2               partitionable  -           -     1, 2, 4, 16   16 GiB  nvidia
        exit 0
    "#]],
    );
}

#[test]
fn a_gpu_is_shown_with_its_partitions_and_what_is_wrong_with_it() {
    let daemon = Daemon::new()
        .answers("GET /v1/gpus", &[igb(), a2()])
        .answers("GET /v1/gpus/node1/0000:01:00.0", &igb())
        .answers("GET /v1/partitions", &partitions());
    check(
        &daemon,
        &["gpu", "show", "01:00.0"],
        expect![[r#"
            GPU            node1/0000:01:00.0
            Model          Intel 82576 (stand-in)
            Emulated       yes: a stand-in of the virtual lab
            PCI ids        8086:10c9:8086:a01f
            Board          PCI-0000:3b:00.0
            Status         partitioned
            Mode           4 partitions
            Free           3 of 4
            VMs            desk-01
            Driver         igb
            Partitions by  SR-IOV virtual functions
            IOMMU group    3
            Reset by       flr, bus

            VALID COUNT  PROFILE  SERIES  MEMORY OF EACH
            1            1/1      -       -
            2            1/2      -       -
            3            1/3      -       -
            4            1/4      -       -
            5            1/5      -       -
            6            1/6      -       -
            7            1/7      -       -

            GPU                            INDEX  DEVICE        PROFILE  MEMORY  STATE   VM
            node1/0000:01:00.0 (emulated)  0      0000:02:10.0  1/4      -       in use  desk-01
            node1/0000:01:00.0 (emulated)  1      0000:02:10.2  1/4      -       free    -
            node1/0000:01:00.0 (emulated)  2      0000:02:10.4  1/4      -       free    -
            node1/0000:01:00.0 (emulated)  3      0000:02:10.6  1/4      -       free    -

            warning: The kernel knows no way to reset GPU node1/0000:01:00.0; a VM may find what the one before it left. [no_reset]
              hint: Give it only to VMs that trust each other.
            exit 0
        "#]],
    );
}

#[test]
fn partitions_are_a_table_and_can_be_those_of_one_gpu() {
    let daemon = Daemon::new().answers("GET /v1/partitions", &partitions());
    check(
        &daemon,
        &["partition", "list"],
        expect![[r#"
        GPU                            INDEX  DEVICE        PROFILE  MEMORY  STATE   VM
        node1/0000:01:00.0 (emulated)  0      0000:02:10.0  1/4      -       in use  desk-01
        node1/0000:01:00.0 (emulated)  1      0000:02:10.2  1/4      -       free    -
        node1/0000:01:00.0 (emulated)  2      0000:02:10.4  1/4      -       free    -
        node1/0000:01:00.0 (emulated)  3      0000:02:10.6  1/4      -       free    -
        exit 0
    "#]],
    );
    check(
        &daemon,
        &["partition", "list", "--gpu", "node1/0000:41:00.0"],
        expect![[r#"
        There are no partitions. Make some with: tranche gpu partition GPU COUNT
        exit 0
    "#]],
    );
}

#[test]
fn what_drivers_measure_is_shown_where_they_do() {
    let ecc = Some(Ecc { enabled: true, corrected: 3, uncorrected: 0 });
    let telemetry = Telemetry {
        serial: Some("1321020".to_owned()),
        firmware: Some("95.02.66.00.02".to_owned()),
        ecc,
        utilization_percent: Some(42),
        memory_used_mib: Some(1024),
        memory_total_mib: Some(15_356),
        temperature_c: None,
        power_w: None,
    };
    let mut partitions = partitions();
    partitions.iter_mut().for_each(|partition| partition.gpu = a2().address);
    partitions.truncate(2);
    partitions[0].telemetry =
        Some(PartitionTelemetry { utilization_percent: Some(7), memory_used_mib: Some(512) });
    let daemon = Daemon::new()
        .answers("GET /v1/gpus", &[a2()])
        .answers(
            "GET /v1/gpus/node1/0000:41:00.0",
            &GpuView { telemetry: Some(telemetry), valid_counts: Vec::new(), ..a2() },
        )
        .answers("GET /v1/partitions", &partitions);
    check(
        &daemon,
        &["gpu", "show", "41:00.0"],
        expect![[r#"
        GPU            node1/0000:41:00.0
        Model          NVIDIA A2
        PCI ids        10de:25b6:10de:157e
        Board          PCI-0000:3b:00.0
        Status         partitionable
        Mode           host
        Memory         16 GiB
        Driver         nvidia
        NUMA node      1
        IOMMU group    27
        Reset by       flr, bus
        Serial         1321020
        Firmware       95.02.66.00.02
        ECC            on: 3 errors corrected, 0 not
        Load           42 %
        Memory in use  1 GiB

        GPU                            INDEX  DEVICE        PROFILE  MEMORY  STATE   VM       LOAD  MEMORY IN USE
        node1/0000:41:00.0 (emulated)  0      0000:02:10.0  1/4      -       in use  desk-01  7 %   512 MiB
        node1/0000:41:00.0 (emulated)  1      0000:02:10.2  1/4      -       free    -        -     -
        exit 0
    "#]],
    );
}

#[test]
fn vms_are_a_table_that_says_who_waits() {
    let daemon = Daemon::new().answers("GET /v1/vms", &[desk_01(), desk_02()]);
    check(
        &daemon,
        &["vm", "list"],
        expect![[r#"
        NAME     STATE    HOST   GPU                      PARTITION  DEVICE        ASKS FOR  GUEST
        desk-01  running  node1  0000:01:00.0 (emulated)  0          0000:02:10.0  any       ubuntu22.04
        desk-02  waiting  -      -                        -          -             3648 MiB  ubuntu22.04
        exit 0
    "#]],
    );
}

#[test]
fn a_long_list_is_read_page_by_page_and_shown_as_one() {
    let daemon = Daemon::new()
        .answers_page("GET /v1/vms", &[desk_01()], "/v1/vms?limit=1000&after=x")
        .answers("GET /v1/vms?limit=1000&after=x", &[desk_02()]);
    let listed = run(&daemon, &["vm", "list"]);
    assert!(listed.contains("\ndesk-01 ") && listed.contains("\ndesk-02 "), "{listed}");
    assert_eq!(daemon.asked(), ["GET /v1/vms", "GET /v1/vms?limit=1000&after=x"]);
}

#[test]
fn a_vm_is_shown_with_its_findings() {
    let daemon = Daemon::new().answers("GET /v1/vms/desk-02", &desk_02());
    check(
        &daemon,
        &["vm", "show", "desk-02"],
        expect![[r#"
            VM          desk-02
            UUID        00000000-0000-0000-0000-000000000012
            State       waiting
            Asks for    3648 MiB (kept while it is off)
            Processors  4
            Memory      8 GiB
            Guest       ubuntu22.04
            Priority    100
            Failover    restart: in a cluster it starts elsewhere when its host dies
            Restarts    3 on one host, then on 3 others
            Migration   live-or-restart: while it runs where that is possible, else by a restart
            Since       2026-11-22 16:00:00

            warning: No free partition fits VM desk-02. [no_free_partition]
              hint: Stop a VM or split another GPU; it starts by itself then.
            exit 0
        "#]],
    );
}

#[test]
fn json_and_yaml_are_the_fields_of_the_api() {
    let daemon = Daemon::new().answers("GET /v1/vms", &[desk_02()]);
    let json = run(&daemon, &["vm", "list", "-o", "json"]);
    let json = json.strip_suffix("exit 0\n").expect("it succeeds");
    let read: serde_json::Value = serde_json::from_str(json).expect("it is JSON");
    assert_eq!(read, serde_json::to_value([desk_02()]).unwrap());
    let yaml = run(&daemon, &["vm", "list", "-o", "yaml"]);
    let yaml = yaml.strip_suffix("exit 0\n").expect("it succeeds");
    let read: serde_json::Value = serde_saphyr::from_str(yaml).expect("it is YAML");
    assert_eq!(read, serde_json::to_value([desk_02()]).unwrap());
}

#[test]
fn operations_are_listed_and_shown_with_their_log() {
    let done =
        operation("start VM desk-01", OperationState::Succeeded, &["booked node1/0000:01:00.0/0"], &[]);
    let daemon = Daemon::new()
        .answers("GET /v1/operations", std::slice::from_ref(&done))
        .answers(ASK_OPERATION, &done);
    check(
        &daemon,
        &["operation", "list"],
        expect![[r#"
        ID                                    STATE      DONE  SINCE                WHAT
        00000000-0000-0000-0000-000000000007  succeeded  100%  2026-11-22 16:00:00  start VM desk-01
        exit 0
    "#]],
    );
    check(
        &daemon,
        &["operation", "show", &done.id.to_string()],
        expect![[r#"
        Operation    00000000-0000-0000-0000-000000000007
        What         start VM desk-01
        State        succeeded, 100%
        Since        2026-11-22 16:00:00
        Last change  2026-11-22 16:00:00

        2026-11-22 16:00:00  booked node1/0000:01:00.0/0
        exit 0
    "#]],
    );
}

#[test]
fn findings_come_with_what_to_do() {
    let daemon = Daemon::new().answers("GET /v1/findings", &[no_room()]);
    check(
        &daemon,
        &["findings"],
        expect![[r#"
            warning: No free partition fits VM desk-02. [no_free_partition]
              hint: Stop a VM or split another GPU; it starts by itself then.
            exit 0
        "#]],
    );
    let daemon = Daemon::new().answers("GET /v1/findings", &[(); 0]);
    check(
        &daemon,
        &["findings"],
        expect![[r#"
        Nothing was found.
        exit 0
    "#]],
    );
}

#[test]
fn why_not_names_every_obstacle_on_the_only_host() {
    let vm = desk_02().name;
    let answer = WhyNot { vm, host: host().name, possible: false, findings: vec![no_room()] };
    let daemon =
        Daemon::new().answers("GET /v1/hosts", &[host()]).answers("GET /v1/why-not/desk-02/node1", &answer);
    check(
        &daemon,
        &["why-not", "desk-02"],
        expect![[r#"
            VM desk-02 cannot run on host node1:
            warning: No free partition fits VM desk-02. [no_free_partition]
              hint: Stop a VM or split another GPU; it starts by itself then.
            exit 6
        "#]],
    );
    let answer = WhyNot { possible: true, findings: Vec::new(), ..answer };
    let daemon = Daemon::new().answers("GET /v1/why-not/desk-02/node1", &answer);
    check(
        &daemon,
        &["why-not", "desk-02", "node1"],
        expect![[r#"
        VM desk-02 can run on host node1.
        exit 0
    "#]],
    );
}

#[test]
fn why_not_asks_for_the_host_where_there_are_two() {
    let mut second = host();
    second.name = "node2".parse().unwrap();
    let daemon = Daemon::new().answers("GET /v1/hosts", &[host(), second]);
    check(
        &daemon,
        &["why-not", "desk-02"],
        expect![[r#"
        ! error: There is more than one host.
        !   hint: Name one of: node1, node2.
        exit 2
    "#]],
    );
}

#[test]
fn the_doctor_tells_by_its_exit_code() {
    let daemon = Daemon::new().answers("GET /v1/doctor", &Diagnosis::new(Vec::new()));
    check(
        &daemon,
        &["doctor"],
        expect![[r#"
        All is well.
        exit 0
    "#]],
    );
    let daemon = Daemon::new().answers("GET /v1/doctor", &Diagnosis::new(vec![no_room()]));
    check(
        &daemon,
        &["doctor"],
        expect![[r#"
            warning: No free partition fits VM desk-02. [no_free_partition]
              hint: Stop a VM or split another GPU; it starts by itself then.
            exit 6
        "#]],
    );
}

#[test]
fn members_of_a_store_that_somebody_else_runs_are_listed_by_url() {
    let seat = |leads| StoreSeat {
        learner: false,
        answer: Some(StoreAnswer {
            version: "3.5.16".to_owned(),
            leads,
            file_bytes: 3 << 20,
            used_bytes: 1 << 20,
            out_of_space: false,
            corrupt: false,
        }),
    };
    let silent = StoreSeat { learner: false, answer: None };
    let seats = [("1", seat(true)), ("2", seat(false)), ("3", silent)];
    let at = |(number, seat)| (format!("https://etcd{number}:2379"), seat);
    let status = ClusterView { store_elsewhere: seats.map(at).into(), ..member_of_a_cluster("node1") };
    check(
        &Daemon::new().answers("GET /v1/cluster", &status),
        &["cluster", "status"],
        expect![[r#"
        Cluster    lab
        This host  node1 is a member
        Survives   the loss of one member of its store

        STORE AT            STORE    ETCD    FILE
        https://etcd1:2379  leads    3.5.16  3 MiB
        https://etcd2:2379  follows  3.5.16  3 MiB
        https://etcd3:2379  silent   -       -
        exit 0
    "#]],
    );
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let many = vec![desk_01(); 5_000];
    let daemon = Daemon::new().answers("GET /v1/vms", &many);
    let socket = daemon.socket();
    let mut child = crate::command(&["--socket", socket.to_str().unwrap(), "vm", "list"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), String::from_utf8(output.stderr).unwrap()), (Some(0), String::new()));
}

#[test]
fn rules_are_a_table_that_says_what_each_asks() {
    let rules = r#"{"home":{"rule":"hosts","vms":["render"],"hosts":{"node1":10,"node2":5},"failback":true},
        "db-apart":{"rule":"vms","vms":["db-1","db-2"],"kind":"apart","strict":true}}"#;
    let rules: std::collections::BTreeMap<RuleName, Rule> = serde_json::from_str(rules).unwrap();
    let daemon = Daemon::new().answers("GET /v1/rules", &rules);
    check(
        &daemon,
        &["rule", "list"],
        expect![[r#"
        RULE      VMS         RUN                                 KEPT
        db-apart  db-1, db-2  apart                               strict
        home      render      on node1 (10), node2 (5), and back  preferred
        exit 0
    "#]],
    );
}

#[test]
fn capacity_tells_what_could_start_and_which_loss_could_not_be_made_good() {
    let why =
        tranche_core::diagnostics::no_room(&"db-2".parse().unwrap(), &Request::ANY_PARTITION, (8, 8), 0);
    let of = |name: &str, free, stranded: Vec<Stranded>| HostCapacity {
        host: name.parse().unwrap(),
        free_memory_mib: Some(98_304),
        free_vcpus: Some(40),
        free_slots: free,
        protected: 4,
        stranded,
    };
    let left_over = Stranded { vm: "db-2".parse().unwrap(), why };
    let capacity = Capacity {
        without: Default::default(),
        stranded: Vec::new(),
        sizes: vec![
            SizeCapacity {
                profile: Some("A2-4Q".to_owned()),
                vram_mib: Some(4_096),
                pool: None,
                total: 8,
                free: 3,
            },
            SizeCapacity { profile: None, vram_mib: None, pool: "render".parse().ok(), total: 2, free: 0 },
        ],
        hosts: vec![of("node1", 0, vec![left_over]), of("node2", 3, Vec::new())],
        survives_any: false,
    };
    let daemon = Daemon::new()
        .answers("GET /v1/capacity", &capacity)
        .answers("GET /v1/capacity?without=node3,node4", &capacity);
    check(
        &daemon,
        &["cluster", "capacity"],
        expect![[r#"
        SIZE                MEMORY OF EACH  FREE  OF
        A2-4Q               4 GiB           3     8
        whole, pool render  -               0     2

        HOST   FREE  MEMORY  VCPUS  PROTECTED VMS  IF IT DIED
        node1  0     96 GiB  40     4              1 left over
        node2  3     96 GiB  40     4              all run again

        Not every protected VM would run again, whichever host died:
          VM db-2 waits: of 8 partitions that fit, 8 are in use.
        exit 6
    "#]],
    );
    run(&daemon, &["cluster", "capacity", "--without", "node3,node4", "-o", "json"]);
    assert!(daemon.asked().iter().any(|asked| asked.starts_with("GET /v1/capacity?without=node3,node4")));
}

#[test]
fn the_order_of_an_upgrade_is_a_table_and_what_to_do_for_each() {
    let step = |host: &str, because, vms: &[&str]| UpgradeStep {
        host: host.parse().unwrap(),
        version: "0.1.0".to_owned(),
        because,
        vms: vms.iter().map(|vm| vm.parse().unwrap()).collect(),
        stranded: Vec::new(),
        commands: vec![format!("tranche host drain {host}"), format!("tranche host undrain {host}")],
    };
    let plan = UpgradePlan {
        steps: vec![step("node2", UpgradeTurn::Votes, &[]), step("node1", UpgradeTurn::Leads, &["a", "b"])],
        done: vec!["node3".parse().unwrap()],
        feasible: true,
    };
    let daemon = Daemon::new().answers("GET /v1/cluster/upgrade-plan", &plan);
    check(
        &daemon,
        &["cluster", "upgrade-plan"],
        expect![[r#"
           HOST   VERSION  BECAUSE                     VMS THAT MOVE  VMS THAT CANNOT
        1  node2  0.1.0    it has a vote in the store  -              -
        2  node1  0.1.0    it leads                    a, b           -

        For each of them, until 'tranche cluster status' says that all is well again, before the next:
          tranche host drain node2
          tranche host undrain node2

        Up to date: node3.
        exit 0
    "#]],
    );
}
