//! noVNC's library: modules that name each other by where they are, so each keeps its place below one address that changes with all of them.

use std::sync::LazyLock;

use axum::extract::Path;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};

use super::{FOR_GOOD, hash_of};
use crate::ask::Trouble;

macro_rules! files {
    ($($file:literal,)*) => {
        &[$(($file, include_bytes!(concat!("../../assets/vendor/novnc/", $file)))),*]
    };
}

/// Every file, and what is in it. The list of their checksums names them all, and a test holds them to it.
static FILES: &[(&str, &[u8])] = files![
    "AUTHORS",
    "LICENSE.txt",
    "core/base64.js",
    "core/crypto/aes.js",
    "core/crypto/bigint.js",
    "core/crypto/crypto.js",
    "core/crypto/des.js",
    "core/crypto/dh.js",
    "core/crypto/md5.js",
    "core/crypto/rsa.js",
    "core/decoders/copyrect.js",
    "core/decoders/h264.js",
    "core/decoders/hextile.js",
    "core/decoders/jpeg.js",
    "core/decoders/raw.js",
    "core/decoders/rre.js",
    "core/decoders/tight.js",
    "core/decoders/tightpng.js",
    "core/decoders/zlib.js",
    "core/decoders/zrle.js",
    "core/deflator.js",
    "core/display.js",
    "core/encodings.js",
    "core/inflator.js",
    "core/input/domkeytable.js",
    "core/input/fixedkeys.js",
    "core/input/gesturehandler.js",
    "core/input/keyboard.js",
    "core/input/keysym.js",
    "core/input/keysymdef.js",
    "core/input/util.js",
    "core/input/vkeys.js",
    "core/input/xtscancodes.js",
    "core/ra2.js",
    "core/rfb.js",
    "core/util/browser.js",
    "core/util/cursor.js",
    "core/util/element.js",
    "core/util/events.js",
    "core/util/eventtarget.js",
    "core/util/int.js",
    "core/util/logging.js",
    "core/util/strings.js",
    "core/websock.js",
    "docs/LICENSE.MPL-2.0",
    "vendor/pako/LICENSE",
    "vendor/pako/README.md",
    "vendor/pako/lib/utils/common.js",
    "vendor/pako/lib/zlib/adler32.js",
    "vendor/pako/lib/zlib/constants.js",
    "vendor/pako/lib/zlib/crc32.js",
    "vendor/pako/lib/zlib/deflate.js",
    "vendor/pako/lib/zlib/gzheader.js",
    "vendor/pako/lib/zlib/inffast.js",
    "vendor/pako/lib/zlib/inflate.js",
    "vendor/pako/lib/zlib/inftrees.js",
    "vendor/pako/lib/zlib/messages.js",
    "vendor/pako/lib/zlib/trees.js",
    "vendor/pako/lib/zlib/zstream.js",
];

/// What the list of checksums has says which files these are.
static HASH: LazyLock<String> =
    LazyLock::new(|| hash_of(include_bytes!("../../assets/vendor/novnc/SHA256SUMS")));

/// Where the module is that shows a screen.
pub(crate) fn address() -> String {
    format!("/assets/novnc.{}/core/rfb.js", *HASH)
}

/// A file.
pub(crate) async fn show(
    Path((tree, file)): Path<(String, String)>,
    headers: HeaderMap,
) -> Result<Response, Trouble> {
    let found = FILES.iter().find(|(name, _)| *name == file);
    let found = found.filter(|_| tree == format!("novnc.{}", *HASH));
    let (name, bytes) = found.ok_or_else(|| Trouble::nothing_at("/assets"))?;
    let tag = format!("\"{}\"", *HASH);
    let is_known = headers.get(header::IF_NONE_MATCH).is_some_and(|known| known.as_bytes() == tag.as_bytes());
    let about = [(header::ETAG, tag), (header::CACHE_CONTROL, FOR_GOOD.to_owned())];
    let media_type =
        if name.ends_with(".js") { "text/javascript; charset=utf-8" } else { "text/plain; charset=utf-8" };
    Ok(if is_known {
        (StatusCode::NOT_MODIFIED, about).into_response()
    } else {
        (about, [(header::CONTENT_TYPE, media_type)], *bytes).into_response()
    })
}
