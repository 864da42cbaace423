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
    let files =
        std::fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let found: BTreeMap<String, String> = files
        .filter(|name| name != "README.md")
        .map(|name| {
            let hash = digest::digest(&digest::SHA256, &std::fs::read(dir.join(&name)).unwrap());
            (name, hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect())
        })
        .collect();
    assert_eq!(found, listed);
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
