//! Somebody at a browser, before the pages and a made-up REST interface.

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Method, Request, StatusCode, header};
use tower::ServiceExt as _;
use tranche_console::Visitor;
use tranche_core::access::Role;

use crate::fixture::{Fake, World};

/// What forms of this session carry.
pub(crate) const CSRF: &str = "a-secret-of-this-session";
/// Text that must never become markup.
pub(crate) const EVIL: &str = "<script>alert(\"1\")</script>'&<img src=x onerror=y>";

/// A browser.
pub(crate) struct Browser {
    pub(crate) fake: Fake,
    pages: Router,
    visitor: Option<Visitor>,
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
}

impl Browser {
    /// One of somebody with a role, or of nobody.
    pub(crate) fn of(role: impl Into<Option<Role>>) -> Self {
        Self::in_world(role, World::small(""))
    }

    pub(crate) fn in_world(role: impl Into<Option<Role>>, world: World) -> Self {
        let name = format!("maria{}", world.ending);
        let fake = Fake::new(world);
        let pages = tranche_console::router(fake.rest());
        let visitor =
            role.into().map(|role| Visitor { name, role, is_limited: false, csrf: CSRF.to_owned() });
        Self { fake, pages, visitor }
    }

    pub(crate) async fn get(&self, path: &str) -> Seen {
        self.send(Method::GET, path, &[], "").await
    }

    /// Sends a form with what shows that it is the visitor's own.
    pub(crate) async fn post(&self, path: &str, fields: &[(&str, &str)]) -> Seen {
        let mut all = vec![("csrf", CSRF)];
        all.extend(fields);
        self.post_bare(path, &all).await
    }

    /// The same with fields that were read from a page.
    pub(crate) async fn post_all(&self, path: &str, fields: &[(String, String)]) -> Seen {
        let fields: Vec<(&str, &str)> =
            fields.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        self.post(path, &fields).await
    }

    /// Sends a form as it is.
    pub(crate) async fn post_bare(&self, path: &str, fields: &[(&str, &str)]) -> Seen {
        self.send(Method::POST, path, &[], &encoded(fields)).await
    }

    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Seen {
        let is_form = method == Method::POST;
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if is_form {
            request = request.header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
        }
        let mut request = request.body(Body::from(body.to_owned())).unwrap();
        if let Some(visitor) = &self.visitor {
            request.extensions_mut().insert(visitor.clone());
        }
        let (parts, body) = self.pages.clone().oneshot(request).await.unwrap().into_parts();
        let bytes = to_bytes(body, 64 << 20).await.unwrap();
        Seen {
            status: parts.status,
            headers: parts.headers,
            text: String::from_utf8(bytes.to_vec()).unwrap(),
        }
    }
}

impl Seen {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// The values of an attribute, in order.
    pub(crate) fn attributes(&self, name: &str) -> Vec<&str> {
        let begin = format!(" {name}=\"");
        self.text.split(&begin).skip(1).filter_map(|rest| rest.split('"').next()).collect()
    }

    /// The value of a field of a form.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        let begin = format!("name=\"{name}\" value=\"");
        self.text.split(&begin).nth(1)?.split('"').next()
    }

    /// What a browser sends of the form with this address if nobody touches it, without what shows that it is the visitor's own.
    pub(crate) fn form(&self, action: &str) -> Vec<(String, String)> {
        let begin = format!("action=\"{action}\"");
        let form =
            self.text.split(&begin).nth(1).unwrap_or_else(|| panic!("no form for {action}: {}", self.text));
        let form = form.split("</form>").next().unwrap();
        let mut fields = Vec::new();
        let mut select = String::new();
        for part in form.split('<').skip(1) {
            let (tag, content) = part.split_once('>').unwrap();
            let value = |name: &str| {
                let rest = tag.split(&format!(" {name}=\"")).nth(1)?;
                Some(unescaped(rest.split('"').next()?))
            };
            let name = || value("name").unwrap_or_default();
            match tag.split_whitespace().next().unwrap() {
                "input" if !tag.contains("type=\"checkbox\"") || tag.ends_with(" checked") => {
                    fields.push((name(), value("value").unwrap_or_default()));
                }
                "textarea" => fields.push((name(), unescaped(content))),
                "select" => select = name(),
                "option" if tag.ends_with(" selected") => {
                    fields.push((select.clone(), value("value").unwrap()));
                }
                _ => {}
            }
        }
        fields.retain(|(name, _)| name != "csrf");
        fields
    }
}

/// The same with some fields filled in otherwise.
pub(crate) fn filled(mut form: Vec<(String, String)>, otherwise: &[(&str, &str)]) -> Vec<(String, String)> {
    for (name, value) in otherwise {
        form.retain(|(known, _)| known != name);
        form.push(((*name).to_owned(), (*value).to_owned()));
    }
    form
}

/// The fields of the form that makes what a page shows.
pub(crate) fn shown(page: &Seen) -> Vec<(String, String)> {
    let form = page.text.split("<form").last().unwrap();
    let names = form.split("type=\"hidden\" name=\"").skip(1).filter_map(|rest| {
        let (name, rest) = rest.split_once("\" value=\"")?;
        Some((name.to_owned(), unescaped(rest.split('"').next()?)))
    });
    names.filter(|(name, _)| name != "csrf").collect()
}

/// Presses the button that makes what a page shows.
pub(crate) async fn confirm(browser: &Browser, path: &str, page: &Seen) -> Seen {
    browser.post_all(path, &shown(page)).await
}

fn unescaped(text: &str) -> String {
    text.replace("&quot;", "\"").replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
}

/// Fields as a browser sends them.
pub(crate) fn encoded(fields: &[(&str, &str)]) -> String {
    let escape = |text: &str| -> String {
        text.bytes()
            .map(|byte| {
                if byte.is_ascii_alphanumeric() {
                    char::from(byte).to_string()
                } else {
                    format!("%{byte:02X}")
                }
            })
            .collect()
    };
    fields
        .iter()
        .map(|(name, value)| format!("{}={}", escape(name), escape(value)))
        .collect::<Vec<_>>()
        .join("&")
}
