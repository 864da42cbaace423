//! Files that pages load: those of others are unchanged, and each is taken from one address for good.

use std::collections::BTreeMap;
use std::path::Path;

use axum::http::{Method, StatusCode};
use ring::digest;
use tranche_core::access::Role;

use crate::visit::Browser;

#[test]
fn files_of_others_are_those_of_the_list_and_no_more() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/vendor");
    let list = std::fs::read_to_string(dir.join("README.md")).unwrap();
    let rows = list.lines().filter(|line| line.starts_with("| `"));
    let listed: BTreeMap<String, String> = rows
        .map(|row| {
            let cells: Vec<&str> = row.split('|').map(|cell| cell.trim().trim_matches('`')).collect();
            (cells[1].to_owned(), cells[6].to_owned())
        })
        .collect();
    let mut found = BTreeMap::new();
    sums(&dir, "", &mut found);
    found.remove("README.md");
    let is_of_novnc = |name: &str| name.starts_with("novnc/") && name != NOVNC_SUMS;
    let novnc: BTreeMap<String, String> = found.extract_if(.., |name, _| is_of_novnc(name)).collect();
    assert_eq!(found, listed);
    assert_eq!(novnc, listed_of_novnc());
}

const NOVNC_SUMS: &str = "novnc/SHA256SUMS";

/// The checksums of noVNC's files as they are listed, by their paths below `vendor`.
fn listed_of_novnc() -> BTreeMap<String, String> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/vendor");
    let list = std::fs::read_to_string(dir.join(NOVNC_SUMS)).unwrap();
    let row = |line: &str| {
        let (sum, name) = line.split_once("  ").unwrap();
        (format!("novnc/{name}"), sum.to_owned())
    };
    list.lines().map(row).collect()
}

/// The checksums of all files below a directory.
fn sums(dir: &Path, below: &str, found: &mut BTreeMap<String, String>) {
    for entry in std::fs::read_dir(dir.join(below)).unwrap() {
        let entry = entry.unwrap();
        let name = Path::new(below).join(entry.file_name()).to_str().unwrap().to_owned();
        if entry.file_type().unwrap().is_dir() {
            sums(dir, &name, found);
        } else {
            let hash = digest::digest(&digest::SHA256, &std::fs::read(entry.path()).unwrap());
            found.insert(name, hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect());
        }
    }
}

#[tokio::test]
async fn what_shows_a_screen_is_served_whole_with_its_licences_and_each_file_where_the_others_look_for_it() {
    let page = Browser::of(Role::Operator).get("/vms/desk-01/screen").await;
    let library = page.attributes("data-library")[0].to_owned();
    let below = library.strip_suffix("core/rfb.js").unwrap();
    let nobody = Browser::of(None);
    for name in listed_of_novnc().keys() {
        let file = nobody.get(&format!("{below}{}", name.strip_prefix("novnc/").unwrap())).await;
        assert_eq!(file.status, StatusCode::OK, "{name}");
        assert!(file.header("cache-control").contains("immutable"), "{name}");
        assert_eq!(
            file.header("content-type").starts_with("text/javascript"),
            name.ends_with(".js"),
            "{name}"
        );
    }
    for nothing in ["/assets/novnc.0000000000000000/core/rfb.js".to_owned(), format!("{below}core/no.js")] {
        assert_eq!(nobody.get(&nothing).await.status, StatusCode::NOT_FOUND, "{nothing}");
    }
}

#[tokio::test]
async fn what_a_page_loads_is_there_for_good_and_nobody_has_to_be_known_for_it() {
    let page = Browser::of(Role::Viewer).get("/").await;
    let nobody = Browser::of(None);
    let mut loaded: Vec<&str> = page.attributes("src");
    loaded.extend(page.attributes("href").into_iter().filter(|href| href.starts_with("/assets/")));
    assert_eq!(loaded.len(), 5, "{loaded:?}");
    for address in loaded {
        assert!(address.starts_with("/assets/"), "{address}");
        let file = nobody.get(address).await;
        assert_eq!(file.status, StatusCode::OK, "{address}");
        assert!(file.header("cache-control").contains("immutable"), "{address}");
        assert_eq!(file.header("x-content-type-options"), "nosniff");
        let again = nobody.send(Method::GET, address, &[("if-none-match", file.header("etag"))], "").await;
        assert_eq!((again.status, again.text.as_str()), (StatusCode::NOT_MODIFIED, ""), "{address}");
    }
    assert_eq!(nobody.get("/assets/console.0000000000000000.js").await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn the_first_page_with_all_that_it_loads_is_below_100_kb_uncompressed() {
    let browser = Browser::of(Role::Admin);
    for path in ["/", "/login"] {
        let page = browser.get(path).await;
        let mut total = page.text.len();
        let files = page.attributes("src").into_iter().chain(page.attributes("href"));
        for address in files.filter(|address| address.starts_with("/assets/")) {
            total += browser.get(address).await.text.len();
        }
        assert!(total < 100_000, "{path}: {total} bytes");
    }
}
