//! The handbook's page about REST, from the checked-in document: each request with what it takes and what it answers, then
//! everything that is sent, field by field.

use std::fmt::Write as _;

use serde_json::{Map, Value};
use tranche_core::access::needed;

/// The order of the page, with what each part is about. A tag that is missing here fails the page's test.
const PARTS: [(&str, &str); 9] = [
    ("daemon", "The daemon itself"),
    ("installation", "All at once: findings, policies, declarations, capacity"),
    ("hosts", "Hosts"),
    ("gpus", "GPUs, partitions, the catalogue"),
    ("vms", "VMs"),
    ("operations", "Operations"),
    ("rules", "Rules"),
    ("cluster", "The cluster"),
    ("access", "Who may come in"),
];

const INTRODUCTION: &str = "\
# REST

The whole interface, as [openapi/v1.json](https://github.com/tranche-project/tranche/blob/main/openapi/v1.json) describes it; a
daemon answers its own at `/v1/openapi.json`. The command, the console and the [Python client](python.md) use nothing else.

* **Where.** On the Unix socket `/run/tranche/tranche.sock`, where whoever may open it may everything; and over HTTPS at port 7440, with
  a token ([access](access.md)):

```sh
curl --unix-socket /run/tranche/tranche.sock http://localhost/v1/gpus
curl -H \"Authorization: Bearer $(cat tranche.token)\" https://node1:7440/v1/gpus
```

* **Changes** answer 202 with an *operation*, and are done in the background: `GET /v1/operations/{id}?wait_ms=10000` answers when it is over or
  the time is. With `?dry_run=true` they change nothing, and answer 200 with what would happen.
* **Refusals** are `application/problem+json` (RFC 9457) with `code`, `detail`, `hint` and all `findings`; each code has an entry
  in the [failure handbook](failures.md). Whatever is refused has changed nothing.
* **Lists** answer as a whole. With `?limit=` (1 to 1,000) they answer a page, whose header `Link: <…>; rel=\"next\"` leads to the next one where there
  is one. A page begins behind the last item of the one before, whatever came and went meanwhile.
* **Limits.** A body has 1 MiB at most. Unknown and repeated fields are refused, so that a typing error is never a default.

<!-- Derived from openapi/v1.json by `cargo xtask docs`; do not edit. -->
";

/// The page.
pub(super) fn page(document: &Value) -> String {
    let mut text = INTRODUCTION.to_owned();
    let requests: Vec<(String, &Value)> = requests(document).collect();
    for (tag, title) in PARTS {
        writeln!(text, "\n## {title}").expect("a string grows");
        for (name, request) in requests.iter().filter(|(_, request)| request["tags"][0] == tag) {
            text.push_str(&of_request(name, request));
        }
    }
    text.push_str("\n## What is sent\n\nFields without *always* may be missing; of what is asked for, they may be left out.\n");
    for (name, schema) in object(&document["components"]["schemas"]) {
        write!(text, "\n### {name}\n\n{}", of_schema(schema)).expect("a string grows");
    }
    text
}

/// Each request as `METHOD /path`.
fn requests(document: &Value) -> impl Iterator<Item = (String, &Value)> {
    let paths = object(&document["paths"]);
    paths.flat_map(|(path, methods)| {
        object(methods).map(move |(method, request)| (format!("{} {path}", method.to_uppercase()), request))
    })
}

fn of_request(name: &str, request: &Value) -> String {
    let (method, path) = name.split_once(' ').unwrap_or((name, ""));
    let role = match (method, path) {
        ("GET", "/healthz") | ("POST", "/v1/sessions") => "nobody in particular".to_owned(),
        _ => format!("role `{}`", needed(method, path)),
    };
    let mut text = format!("\n### `{name}`\n\n{}\n\n", sentence(&request["summary"]));
    writeln!(text, "For {role}. Operation `{}`.", request["operationId"].as_str().unwrap_or_default())
        .expect("a string grows");
    let parameters: Vec<String> = list(&request["parameters"]).map(parameter).collect();
    if !parameters.is_empty() {
        write!(
            text,
            "\n| parameter | in | type | meaning |\n| --- | --- | --- | --- |\n{}",
            parameters.concat()
        )
        .expect("a string grows");
    }
    if let Some(body) = content(&request["requestBody"]) {
        write!(text, "\nBody: {body}.\n").expect("a string grows");
    }
    // The refusals are the same everywhere, and said at the top.
    let good = object(&request["responses"]).filter(|(status, _)| status.starts_with('2'));
    let answers: Vec<String> = good
        .map(|(status, answer)| {
            let what = content(answer).map(|what| format!(": {what}")).unwrap_or_default();
            format!("* {status}{what}. {}\n", sentence(&answer["description"]))
        })
        .collect();
    write!(text, "\n{}", answers.concat()).expect("a string grows");
    text
}

fn parameter(parameter: &Value) -> String {
    format!(
        "| `{}` | {} | {} | {} |\n",
        parameter["name"].as_str().unwrap_or_default(),
        parameter["in"].as_str().unwrap_or_default(),
        type_of(&parameter["schema"]),
        cell(&parameter["description"]),
    )
}

/// What a body is of, where there is one.
fn content(of: &Value) -> Option<String> {
    let (kind, content) = object(&of["content"]).next()?;
    match kind.as_str() {
        "application/json" => Some(type_of(&content["schema"])),
        other => Some(format!("`{other}`")),
    }
}

/// A schema's description and fields.
fn of_schema(schema: &Value) -> String {
    let mut text = String::new();
    if let Some(about) = schema["description"].as_str() {
        writeln!(text, "{}\n", one_line(about)).expect("a string grows");
    }
    if let Some(one_of) = schema["oneOf"].as_array() {
        text.push_str("One of:\n");
        for each in one_of {
            writeln!(text, "\n* {}", variant(each)).expect("a string grows");
        }
        return text;
    }
    let parts: Vec<&Value> = std::iter::once(schema).chain(list(&schema["allOf"])).collect();
    for includes in parts.iter().filter(|part| part["$ref"].is_string()) {
        writeln!(text, "All of {}, and:\n", type_of(includes)).expect("a string grows");
    }
    let rows: Vec<String> = parts.iter().flat_map(|part| fields(part)).collect();
    if rows.is_empty() {
        writeln!(text, "{}", plain(schema)).expect("a string grows");
    } else {
        write!(text, "| field | type | meaning |\n| --- | --- | --- |\n{}", rows.concat())
            .expect("a string grows");
    }
    text
}

fn fields(schema: &Value) -> Vec<String> {
    let always: Vec<&str> = list(&schema["required"]).filter_map(Value::as_str).collect();
    let row = |(name, field): (&String, &Value)| {
        let always = if always.contains(&name.as_str()) { ", always" } else { "" };
        format!("| `{name}` | {}{always} | {} |\n", type_of(field), cell(described(field)))
    };
    object(&schema["properties"]).map(row).collect()
}

/// One of several forms, in a line.
fn variant(schema: &Value) -> String {
    let fields: Vec<String> = object(&schema["properties"])
        .map(|(name, field)| match field["enum"].as_array().map(Vec::as_slice) {
            Some([only]) => format!("`{name}: {}`", only.as_str().unwrap_or_default()),
            _ => format!("`{name}` ({})", type_of(field)),
        })
        .collect();
    let about =
        schema["description"].as_str().map(|about| format!(" — {}", one_line(about))).unwrap_or_default();
    let what = if fields.is_empty() { type_of(schema) } else { fields.join(", ") };
    format!("{what}{about}")
}

/// A schema without fields: its type, its choices, an example.
fn plain(schema: &Value) -> String {
    let example = schema["examples"].as_array().and_then(|all| all.first()).or(schema.get("example"));
    let example = example.map(|example| format!(", as `{}`", text_of(example))).unwrap_or_default();
    format!("{}{example}.", type_of(schema))
}

/// A type in a few words, with a link where it has a section of its own.
fn type_of(schema: &Value) -> String {
    if let Some(name) = schema["$ref"].as_str().and_then(|path| path.rsplit('/').next()) {
        return format!("[{name}](#{})", name.to_lowercase());
    }
    if let Some(choices) = schema["oneOf"].as_array() {
        let of: Vec<String> = choices.iter().map(type_of).collect();
        return of.join(" or ");
    }
    if let Some(choices) = schema["enum"].as_array() {
        let of: Vec<String> = choices.iter().map(|choice| format!("`{}`", text_of(choice))).collect();
        return of.join(", ");
    }
    let kinds: Vec<&str> = match &schema["type"] {
        Value::String(kind) => vec![kind.as_str()],
        kinds => list(kinds).filter_map(Value::as_str).collect(),
    };
    let named = kinds.iter().map(|kind| match *kind {
        "array" => format!("list of {}", type_of(&schema["items"])),
        "object" if schema["additionalProperties"].is_object() => {
            format!("map to {}", type_of(&schema["additionalProperties"]))
        }
        kind => kind.to_owned(),
    });
    let named: Vec<String> = named.collect();
    if named.is_empty() { "anything".to_owned() } else { named.join(" or ") }
}

/// A field's description, which may stand in one of its forms.
fn described(field: &Value) -> &Value {
    match &field["description"] {
        Value::Null => field["oneOf"].get(0).map_or(&Value::Null, |first| &first["description"]),
        own => own,
    }
}

fn sentence(text: &Value) -> String {
    one_line(text.as_str().unwrap_or_default())
}

fn cell(text: &Value) -> String {
    sentence(text).replace('|', "\\|")
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn text_of(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn object(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flat_map(Map::iter)
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use serde_json::json;

    use super::*;

    #[test]
    fn every_request_has_its_section() {
        let document: Value = serde_json::from_str(crate::docs::OPENAPI).unwrap();
        let page = page(&document);
        for (name, _) in requests(&document) {
            assert!(
                page.contains(&format!("\n### `{name}`\n")),
                "{name} has a tag that the page does not know"
            );
        }
    }

    #[test]
    fn a_request_tells_what_it_takes_and_answers() {
        let request = json!({
            "summary": "Turns a VM\noff.", "operationId": "stop_vm",
            "parameters": [{"name": "name", "in": "path", "schema": {"$ref": "#/components/schemas/VmName"}}],
            "requestBody": {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/StopVm"}}}},
            "responses": {
                "202": {"description": "It is accepted.", "content": {"application/json": {"schema": {"type": "array", "items": {"type": "string"}}}}},
                "409": {"description": "It clashes."}
            },
        });
        expect![[r#"

            ### `POST /v1/vms/{name}/stop`

            Turns a VM off.

            For role `operator`. Operation `stop_vm`.

            | parameter | in | type | meaning |
            | --- | --- | --- | --- |
            | `name` | path | [VmName](#vmname) |  |

            Body: [StopVm](#stopvm).

            * 202: list of string. It is accepted.
        "#]]
        .assert_eq(&of_request("POST /v1/vms/{name}/stop", &request));
    }

    #[test]
    fn a_schema_tells_its_fields_or_its_forms() {
        let vm = json!({
            "description": "A VM.", "required": ["name"],
            "properties": {
                "host": {"oneOf": [{"$ref": "#/components/schemas/HostName", "description": "Where | it is."}, {"type": "null"}]},
                "name": {"type": "string"},
            },
        });
        expect![[r#"
            A VM.

            | field | type | meaning |
            | --- | --- | --- |
            | `host` | [HostName](#hostname) or null | Where \| it is. |
            | `name` | string, always |  |
        "#]]
        .assert_eq(&of_schema(&vm));
        let mode = json!({"oneOf": [
            {"description": "Split.", "properties": {"count": {"type": "integer"}, "mode": {"enum": ["partitioned"]}}},
            {"type": "null"},
        ]});
        expect![[r#"
            One of:

            * `count` (integer), `mode: partitioned` — Split.

            * null
        "#]]
        .assert_eq(&of_schema(&mode));
    }
}
