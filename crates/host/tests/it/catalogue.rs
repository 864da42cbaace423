//! The catalogue: what is compiled in, what is read, and what is refused.

use camino::Utf8Path;
use expect_test::expect;
use tranche_core::finding::{Code, Severity};
use tranche_core::name::PciIds;
use tranche_host::catalogue::{Catalogue, Confidence, Interface};

use tranche_host::fake::Machine;

use crate::captured::Captured;
use crate::machine::{host, inventory};

fn ids(text: &str) -> PciIds {
    text.parse().expect("PCI ids")
}

#[test]
fn the_eight_gpus_are_known_with_their_counts() {
    let catalogue = Catalogue::builtin();
    let lines: Vec<String> = catalogue
        .entries()
        .iter()
        .filter(|entry| entry.interface == Interface::NvidiaVgpu)
        .map(|entry| {
            let counts: Vec<String> = entry
                .counts(Some("Q"))
                .iter()
                .map(|(count, profile)| format!("{count}x{}", profile.name))
                .collect();
            let vram = entry.vram_mib.as_ref().unwrap().value / 1024;
            format!("{} {vram} GiB, {} a board: {}\n", entry.model, entry.gpus_per_board, counts.join(" "))
        })
        .collect();
    expect![[r#"
        NVIDIA A10 24 GiB, 1 a board: 1x24Q 2x12Q 3x8Q 4x6Q 6x4Q 8x3Q 12x2Q 24x1Q
        NVIDIA A16 16 GiB, 4 a board: 1x16Q 2x8Q 4x4Q 8x2Q 16x1Q
        NVIDIA A2 16 GiB, 1 a board: 1x16Q 2x8Q 4x4Q 8x2Q 16x1Q
        NVIDIA A40 48 GiB, 1 a board: 1x48Q 2x24Q 3x16Q 4x12Q 6x8Q 8x6Q 12x4Q 16x3Q 24x2Q 32x1Q
        NVIDIA L2 24 GiB, 1 a board: 1x24Q 2x12Q 3x8Q 4x6Q 6x4Q 8x3Q 12x2Q 24x1Q
        NVIDIA L4 24 GiB, 1 a board: 1x24Q 2x12Q 3x8Q 4x6Q 6x4Q 8x3Q 12x2Q 24x1Q
        NVIDIA L40 48 GiB, 1 a board: 1x48Q 2x24Q 3x16Q 4x12Q 6x8Q 8x6Q 12x4Q 16x3Q 24x2Q 32x1Q
        NVIDIA L40S 48 GiB, 1 a board: 1x48Q 2x24Q 3x16Q 4x12Q 6x8Q 8x6Q 12x4Q 16x3Q 24x2Q 32x1Q
    "#]]
    .assert_eq(&lines.concat());
}

#[test]
fn no_profile_contradicts_the_gpu_that_it_is_of() {
    for entry in Catalogue::builtin().entries() {
        if entry.interface != Interface::NvidiaVgpu {
            assert_eq!(entry.profiles, [], "{}", entry.model);
            continue;
        }
        let vram = entry.vram_mib.as_ref().unwrap().value;
        let mut type_ids: Vec<_> = entry.profiles.iter().filter_map(|profile| profile.type_id).collect();
        let count = type_ids.len();
        type_ids.sort_unstable();
        type_ids.dedup();
        assert_eq!((type_ids.len(), count), (entry.profiles.len(), entry.profiles.len()), "{}", entry.model);
        for profile in &entry.profiles {
            assert!(profile.size_mib * u64::from(profile.max) <= vram, "{} {}", entry.model, profile.name);
            assert!(profile.usable_mib.is_none_or(|usable| usable <= profile.size_mib), "{}", profile.name);
            let in_name = format!("{}{}", profile.size_mib / 1024, profile.series.as_deref().unwrap());
            assert_eq!(profile.name, in_name, "{}", entry.model);
            assert!(
                profile.max <= entry.total_vfs.as_ref().unwrap().value,
                "{} {}",
                entry.model,
                profile.name
            );
            assert!(!profile.source.what.is_empty());
        }
        assert!(!entry.emulated);
    }
}

#[test]
fn figures_say_how_far_they_can_be_trusted() {
    let catalogue = Catalogue::builtin();
    let total =
        |text: &str| catalogue.find(&ids(text)).unwrap().total_vfs.as_ref().unwrap().source.confidence;
    assert_eq!(total("10de:25b6:10de:157e"), Confidence::Hw);
    assert_eq!(total("10de:27b8:10de:16ca"), Confidence::Inferred);
    let a40 = catalogue.find(&ids("10de:2235:10de:145a")).unwrap();
    assert_eq!(a40.profile("4Q").unwrap().source.confidence, Confidence::Data);
    assert_eq!(a40.profile("4C").unwrap().source.confidence, Confidence::Inferred);
}

#[test]
fn the_a2_and_the_a16_are_told_apart_by_their_subsystem_alone() {
    let catalogue = Catalogue::builtin();
    let model = |text: &str| catalogue.find(&ids(text)).map(|entry| entry.model.as_str());
    assert_eq!(model("10de:25b6:10de:157e"), Some("NVIDIA A2"));
    assert_eq!(model("10de:25b6:10de:14a9"), Some("NVIDIA A16"));
    assert_eq!(model("10de:25b6:10de:0000"), None);
    assert_eq!(model("10de:26b9:10de:1851"), Some("NVIDIA L40S"));
}

#[test]
fn models_of_other_vendors_are_known_with_what_is_known_of_them() {
    let catalogue = Catalogue::builtin();
    let lines: Vec<String> = catalogue
        .entries()
        .iter()
        .filter(|entry| entry.interface != Interface::NvidiaVgpu)
        .map(|entry| {
            let shared = entry
                .shared_mib
                .as_ref()
                .map_or(String::new(), |figure| format!(", shares {}", figure.value));
            let vfs = entry.total_vfs.as_ref().map_or(String::new(), |figure| {
                format!(", {} VFs ({:?})", figure.value, figure.source.confidence)
            });
            let vram = entry.vram_mib.as_ref().map_or(0, |figure| figure.value);
            format!("{} {:?} {vram}{shared}{vfs}\n", entry.model, entry.interface)
        })
        .collect();
    expect![[r#"
        AMD Instinct MI210 ModuleParameter 65536, 1 VFs (Doc)
        AMD Instinct MI300X ModuleParameter 196608, 8 VFs (Doc)
        AMD Instinct MI325X ModuleParameter 262144, 1 VFs (Doc)
        AMD Instinct MI350X ModuleParameter 294912, 8 VFs (Doc)
        AMD Radeon PRO V620 ModuleParameter 32768
        AMD Radeon PRO V710 ModuleParameter 28672, 12 VFs (Doc)
        Intel Arc A770 Whole 16384
        Intel Arc B580 Whole 12288, 0 VFs (Hw)
        Intel Arc Pro B50 PlainVf 16384, shares 16128
        Intel Arc Pro B60 PlainVf 24576, shares 24192
        Intel Arc Pro B65 PlainVf 32768, shares 31744
        Intel Arc Pro B70 PlainVf 32768, shares 28392
        Intel Data Center GPU Flex 140 PlainVf 6144, 31 VFs (Inferred)
        Intel Data Center GPU Flex 170 PlainVf 16384, 31 VFs (Inferred)
        NVIDIA GeForce RTX 3090 Whole 24576
        NVIDIA GeForce RTX 4090 Whole 24576
        NVIDIA GeForce RTX 5090 Whole 32768
    "#]]
    .assert_eq(&lines.concat());
}

#[test]
fn what_can_be_shared_is_no_more_than_there_is() {
    for entry in Catalogue::builtin().entries() {
        if let Some(shared) = &entry.shared_mib {
            assert!(shared.value <= entry.vram_mib.as_ref().unwrap().value, "{}", entry.model);
            assert_eq!(shared.source.confidence, Confidence::Data, "{}", entry.model);
        }
    }
}

#[test]
fn the_catalogue_is_compared_with_what_a_host_shows() {
    let catalogue = Catalogue::builtin();
    let check = |machine| catalogue.check(&inventory(&host(machine)));
    assert_eq!(check(Machine::arc()), []);
    assert_eq!(check(Machine::instinct(8)), []);
    let mut other = Machine::instinct(8);
    other.functions[0].sriov.as_mut().unwrap().total_vfs = 16;
    let findings = check(other);
    assert_eq!((findings.len(), findings[0].severity), (1, Severity::Warning), "{findings:?}");
    assert!(findings[0].message.contains("has 16 virtual functions and not 8"), "{}", findings[0]);
    assert!(findings[0].message.contains("confidence Doc"), "{}", findings[0]);
    let mut unknown = Machine::arc();
    unknown.functions[0].ids.device = 0xe2ff;
    let findings = check(unknown);
    assert_eq!((findings.len(), findings[0].severity), (1, Severity::Info), "{findings:?}");
}

const ENTRY: &str = "\
[sources]
here = { what = \"a test\", confidence = \"doc\" }

[[gpu]]
model = \"Special\"
match = [\"10de:26b9:10de:1851\"]
interface = \"plain-vf\"
vram_mib = { value = 1024, source = \"here\" }
";

#[test]
fn the_most_specific_entry_wins_and_a_later_file_overrules_an_earlier_one() {
    let captured = Captured::new("");
    let special = captured.root().join("10-special.toml");
    std::fs::write(special, ENTRY).unwrap();
    std::fs::write(captured.root().join("20-other.toml"), ENTRY.replace("Special", "More special")).unwrap();
    std::fs::write(captured.root().join("README"), "no catalogue").unwrap();
    let (catalogue, errors) = Catalogue::open(captured.root());
    assert!(errors.is_empty(), "{errors:?}");
    let model = |text: &str| catalogue.find(&ids(text)).map(|entry| entry.model.as_str());
    assert_eq!(model("10de:26b9:10de:1851"), Some("More special"));
    assert_eq!(model("10de:26b9:10de:18cf"), Some("NVIDIA L40S"));
}

#[test]
fn a_file_that_is_wrong_is_named_with_its_line_and_left_out_whole() {
    let cases = [
        ("an unknown field", ENTRY.replace("model =", "modle ="), 5),
        ("an unknown source", ENTRY.replace("\"here\" }", "\"there\" }"), 8),
        ("a bad id", ENTRY.replace("10de:26b9:10de:1851", "10de:26b9:10de"), 6),
        ("a bad interface", ENTRY.replace("plain-vf", "magic"), 7),
        ("a number that is too large", ENTRY.replace("1024", "-1"), 8),
        ("no ids", ENTRY.replace("[\"10de:26b9:10de:1851\"]", "[]"), 5),
        ("an id twice", ENTRY.replace(":1851\"]", ":1851\", \"10de:26b9:10de:1851\"]"), 6),
        ("a key twice", ENTRY.replace("interface", "match = []\ninterface"), 7),
        ("no TOML", "[[gpu".to_owned(), 1),
    ];
    for (case, text, line) in cases {
        let captured = Captured::new("");
        std::fs::write(captured.root().join("bad.toml"), text).unwrap();
        let (catalogue, errors) = Catalogue::open(captured.root());
        assert_eq!(errors.len(), 1, "{case}");
        let note = tranche_host::catalogue_note(&errors[0]);
        assert_eq!(note.code, Code::CatalogueInvalid, "{case}");
        let message = note.message;
        assert!(
            message.contains("bad.toml") && message.contains(&format!("line {line}")),
            "{case}: {message}"
        );
        assert_eq!(catalogue.entries().len(), Catalogue::builtin().entries().len(), "{case}");
    }
}

#[test]
fn a_huge_file_is_refused_and_a_missing_directory_is_empty() {
    let captured = Captured::new("");
    let file = std::fs::File::create(captured.root().join("huge.toml")).unwrap();
    file.set_len(1 << 32).unwrap();
    let (_, errors) = Catalogue::open(captured.root());
    assert_eq!(errors.len(), 1);
    assert!(errors[0].to_string().contains("larger than 1 MiB"), "{}", errors[0]);
    let (catalogue, errors) = Catalogue::open(Utf8Path::new("/nonexistent/catalogue.d"));
    assert!(errors.is_empty());
    assert_eq!(catalogue.entries().len(), Catalogue::builtin().entries().len());
}
