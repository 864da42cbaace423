//! What the documentation shows is what the simulator plays.

use std::fs;

use crate::playing::{docs, holds, play};

#[test]
fn every_scenario_of_the_page_can_be_played_as_it_is_printed() {
    let page = fs::read_to_string(docs("simulator.md")).expect("the page is there");
    let blocks: Vec<&str> =
        page.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert!(!blocks.is_empty(), "the page shows a scenario");
    for block in blocks {
        holds(&play(block));
    }
}

#[test]
fn every_example_that_is_a_scenario_can_be_played_and_comes_true() {
    let mut played = 0;
    for entry in fs::read_dir(docs("examples")).expect("there are examples") {
        let path = entry.expect("the folder can be read").path();
        let text = fs::read_to_string(&path).expect("an example can be read");
        // Others are declarations, which say nothing of time.
        if text.lines().any(|line| line.starts_with("until_ms:")) {
            holds(&play(&text));
            played += 1;
        }
    }
    assert!(played >= 4, "{played} scenarios");
}

#[test]
fn every_event_has_its_place_on_the_page() {
    let page = fs::read_to_string(docs("simulator.md")).expect("the page is there");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/src/event.rs");
    let source = fs::read_to_string(source).expect("the source is there");
    let body = source.split("pub enum Event {").nth(1).and_then(|rest| rest.split("\n}\n").next());
    let variants = body.expect("there are events").lines().filter_map(|line| {
        let line = line.strip_prefix("    ").filter(|line| line.starts_with(char::is_uppercase))?;
        line.split(|character: char| !character.is_alphanumeric()).next()
    });
    let mut count = 0;
    for variant in variants {
        let mut word = String::new();
        for (at, letter) in variant.char_indices() {
            if letter.is_uppercase() && at > 0 {
                word.push('_');
            }
            word.extend(letter.to_lowercase());
        }
        assert!(page.contains(&format!("`{word}`")), "{word} is not on the page");
        count += 1;
    }
    assert!(count > 40, "{count} events");
}
