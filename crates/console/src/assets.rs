//! Scripts, styles and pictures: inside the program, under addresses that change with what is in them.

pub(crate) mod novnc;

use std::sync::LazyLock;

use axum::extract::Path;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use ring::digest;

use crate::ask::Trouble;

/// A file, for good: under its address there will never be another one.
const FOR_GOOD: &str = "public, max-age=31536000, immutable";

/// A file that pages load.
#[derive(Debug)]
pub(crate) struct Asset {
    name: &'static str,
    extension: &'static str,
    media_type: &'static str,
    bytes: &'static [u8],
    hash: LazyLock<String>,
    address: LazyLock<String>,
}

macro_rules! asset {
    ($constant:ident, $name:literal, $extension:literal, $media_type:literal, $file:literal) => {
        pub(crate) static $constant: Asset = Asset {
            name: $name,
            extension: $extension,
            media_type: $media_type,
            bytes: include_bytes!(concat!("../assets/", $file)),
            hash: LazyLock::new(|| hash_of(include_bytes!(concat!("../assets/", $file)))),
            address: LazyLock::new(|| format!("/assets/{}.{}.{}", $name, *$constant.hash, $extension)),
        };
    };
}

asset!(STYLE, "console", "css", "text/css; charset=utf-8", "console.css");
asset!(SCRIPT, "console", "js", "text/javascript; charset=utf-8", "console.js");
asset!(HTMX, "htmx", "js", "text/javascript; charset=utf-8", "vendor/htmx.min.js");
asset!(HTMX_SSE, "sse", "js", "text/javascript; charset=utf-8", "vendor/sse.min.js");
asset!(CONSOLES, "consoles", "js", "text/javascript; charset=utf-8", "consoles.js");
asset!(XTERM, "xterm", "mjs", "text/javascript; charset=utf-8", "vendor/xterm.mjs");
asset!(XTERM_STYLE, "xterm", "css", "text/css; charset=utf-8", "vendor/xterm.css");
asset!(CHART, "chart", "js", "text/javascript; charset=utf-8", "chart.js");
asset!(UPLOT, "uplot", "js", "text/javascript; charset=utf-8", "vendor/uplot.min.js");
asset!(UPLOT_STYLE, "uplot", "css", "text/css; charset=utf-8", "vendor/uplot.min.css");
asset!(ICON, "icon", "svg", "image/svg+xml", "icon.svg");

static ALL: [&Asset; 11] =
    [&STYLE, &SCRIPT, &HTMX, &HTMX_SSE, &CONSOLES, &XTERM, &XTERM_STYLE, &CHART, &UPLOT, &UPLOT_STYLE, &ICON];

impl Asset {
    /// Where it is.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }
}

/// Enough of a SHA-256 that two versions of a file never have the same.
fn hash_of(bytes: &[u8]) -> String {
    let hash = digest::digest(&digest::SHA256, bytes);
    hash.as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// A file.
pub(crate) async fn show(Path(file): Path<String>, headers: HeaderMap) -> Result<Response, Trouble> {
    let is_meant = |asset: &&&Asset| file == format!("{}.{}.{}", asset.name, *asset.hash, asset.extension);
    let asset = ALL.iter().find(is_meant).ok_or_else(|| Trouble::nothing_at("/assets"))?;
    let tag = format!("\"{}\"", *asset.hash);
    let is_known = headers.get(header::IF_NONE_MATCH).is_some_and(|known| known.as_bytes() == tag.as_bytes());
    let about = [(header::ETAG, tag), (header::CACHE_CONTROL, FOR_GOOD.to_owned())];
    Ok(if is_known {
        (StatusCode::NOT_MODIFIED, about).into_response()
    } else {
        (about, [(header::CONTENT_TYPE, asset.media_type)], asset.bytes).into_response()
    })
}
