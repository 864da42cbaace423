//! The document that is checked in is what the handlers are.

use expect_test::expect_file;

#[test]
fn the_document_that_is_checked_in_is_what_the_handlers_are() {
    expect_file!["../../../../openapi/v1.json"].assert_eq(&tranched::openapi::document());
}
