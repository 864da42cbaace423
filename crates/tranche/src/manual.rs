//! Completions and man pages, made from the command line's definition.

use std::fs;
use std::path::Path;

use crate::failure::Failure;

/// The completion script of a shell.
pub(crate) fn completions(shell: clap_complete::Shell) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut crate::command(), "tranche", &mut script);
    script
}

/// The page of the command itself.
pub(crate) fn page() -> Result<Vec<u8>, Failure> {
    let mut page = Vec::new();
    let rendered = clap_mangen::Man::new(crate::command()).render(&mut page);
    rendered.map_err(|source| Failure::Write { what: "The man page".to_owned(), source })?;
    Ok(page)
}

/// Writes the page of every command into a directory, which is made if it is missing.
pub(crate) fn write_pages(directory: &Path) -> Result<(), Failure> {
    let written =
        fs::create_dir_all(directory).and_then(|()| clap_mangen::generate_to(crate::command(), directory));
    written
        .map_err(|source| Failure::Write { what: format!("A man page in {}", directory.display()), source })
}
