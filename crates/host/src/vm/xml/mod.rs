//! libvirt's domain XML as pure functions: making it, reading it, and editing our devices in it.
//!
//! An adopted domain's XML is the user's. [`put_devices`] therefore edits the text itself, by the ranges of what is
//! ours, and never writes anything anew from a tree: comments, order and spaces stay as they are.
//!
//! What the elements mean stands in libvirt's `docs/formatdomain`. Validating against libvirt's schema is libvirt's
//! own business, at definition.

mod define;
mod devices;
mod firmware;
mod moved;
mod near;
mod read;
mod write;

pub use define::{Acceleration, Definition, Disk, define};
pub use devices::put_devices;
pub use moved::on_other_devices;
pub use read::{Facts, emulator, read, volume_format};

/// The prefix of the aliases of devices that Tranche puts into a domain. libvirt keeps an alias across edits only if
/// it begins with `ua-` ("user alias", since libvirt 3.9).
pub const ALIAS_PREFIX: &str = "ua-tranche-";

/// Why an XML text is of no use.
#[derive(Debug, thiserror::Error)]
pub enum XmlError {
    /// It is not well-formed.
    #[error("the XML is not well-formed")]
    Malformed(#[from] roxmltree::Error),
    /// It lacks something that every such document has.
    #[error("the XML has no {0}")]
    Missing(&'static str),
    /// Something in it has a value that cannot be read.
    #[error("the XML says {value:?} where {what} belongs")]
    Unreadable {
        /// What belongs there.
        what: &'static str,
        /// What stands there.
        value: String,
    },
}

/// The kind of a storage pool, and where its volumes are on this host (libvirt: docs/formatstorage).
///
/// # Errors
/// When this is not the XML of a storage pool.
#[cfg(feature = "libvirt")]
pub(crate) fn read_pool(xml: &str) -> Result<(String, Option<String>), XmlError> {
    let document = roxmltree::Document::parse(xml)?;
    let pool = document.root_element();
    let kind = pool.attribute("type").ok_or(XmlError::Missing("type of a pool"))?;
    let path = descend(pool, &["target", "path"]).and_then(|path| path.text());
    Ok((kind.to_owned(), path.map(str::to_owned)))
}

/// The first child element of that name.
fn child<'a, 'input>(node: roxmltree::Node<'a, 'input>, name: &str) -> Option<roxmltree::Node<'a, 'input>> {
    node.children().find(|child| child.has_tag_name(name))
}

/// The element at the end of a path of child elements.
fn descend<'a, 'input>(
    node: roxmltree::Node<'a, 'input>,
    path: &[&str],
) -> Option<roxmltree::Node<'a, 'input>> {
    path.iter().try_fold(node, |node, name| child(node, name))
}
