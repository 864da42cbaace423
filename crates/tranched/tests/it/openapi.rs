//! The document that is checked in is what the handlers are, and what OpenAPI asks of a document.

use std::collections::BTreeSet;

use expect_test::expect_file;
use serde_json::Value;

#[test]
fn the_document_that_is_checked_in_is_what_the_handlers_are() {
    expect_file!["../../../../openapi/v1.json"].assert_eq(&tranched::openapi::document());
}

#[test]
fn every_operation_has_an_id_of_its_own_and_every_answer_a_description() {
    let document: Value = serde_json::from_str(tranched::openapi::TEXT).unwrap();
    assert_eq!(document["openapi"], "3.1.0");
    let mut ids = BTreeSet::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let id = operation["operationId"].as_str().unwrap();
            assert!(ids.insert(id.to_owned()), "{id} of {method} {path} is another's, too");
            assert!(operation["summary"].is_string(), "{id}");
            for (status, answer) in operation["responses"].as_object().unwrap() {
                assert!(answer["description"].is_string(), "{id} {status}");
            }
        }
    }
    assert_eq!(ids.len(), 86);
}

#[test]
fn every_schema_that_is_referred_to_is_there() {
    let document: Value = serde_json::from_str(tranched::openapi::TEXT).unwrap();
    let schemas = document["components"]["schemas"].as_object().unwrap();
    let mut rest = vec![&document];
    while let Some(value) = rest.pop() {
        match value {
            Value::Object(fields) => rest.extend(fields.values()),
            Value::Array(items) => rest.extend(items),
            Value::String(text) => {
                if let Some(name) = text.strip_prefix("#/components/schemas/") {
                    assert!(schemas.contains_key(name), "{name}");
                }
            }
            _ => {}
        }
    }
}
