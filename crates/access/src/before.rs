//! What a thing was before a request changed it, for the audit log.
//!
//! It is read from the REST interface a moment before the request is carried out, by whoever carries it out: which addresses tell it,
//! and what of their answers matters, is decided here by method and path alone. Between that look and the change somebody else may
//! change the same thing; their entry says so, too.
//!
//! Which GPUs a set means, and what comes of a host that is to get into a cluster or out of it, no request tells: there, the same addresses
//! are read once more when it was taken.
//!
//! Deliberately absent: what makes something that was not there, and what a host that is on its way into a cluster becomes later.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};
use tranche_api::access::Changed;
use tranche_api::secret::{HIDDEN, is_secret};

/// The most fields of one entry.
const FIELDS_MAX: usize = 40;
/// The most characters of one value.
const VALUE_LEN_MAX: usize = 200;
/// Stands for what was cut.
const CUT: &str = "…";

/// What matters of a VM: what people ask of it, and where it stands.
const OF_VM: &[&str] = &[
    "state",
    "run",
    "host",
    "request",
    "labels",
    "reserved",
    "prefer_numa_node",
    "availability",
    "vcpus",
    "memory_mib",
    "guest_os",
    "origin",
];
/// What matters of a VM that is started, stopped or moved.
const OF_VM_AT_WORK: &[&str] = &["state", "host"];
/// What matters of a VM that is given a GPU, or whose GPU is taken away.
const OF_VM_WITH_GPU: &[&str] = &["state", "host", "request"];
const OF_HOST: &[&str] = &["duty", "labels", "agent", "leave_off", "reserved_memory_mib"];
const OF_USER: &[&str] = &["role", "vm_labels", "password_at"];
const OF_TOKEN: &[&str] = &["role", "vm_labels", "expires_at"];
const OF_CLUSTER: &[&str] = &["standing", "cluster"];
const OF_MEMBER: &[&str] = &["address", "role", "version"];

/// A request that changes something that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deed {
    of: Of,
    compare: Compare,
}

/// What a request is about.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Of {
    Vm(String, &'static [&'static str]),
    Host(String),
    Gpu(String),
    Gpus,
    Rule(String),
    Policy,
    Failover,
    User(String),
    Token(String),
    Member(String),
    Cluster,
    Declaration,
}

/// Which fields are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Compare {
    /// Those that were asked for.
    Asked,
    /// All: what is left out goes back to its default, goes away, or follows from what is done.
    All,
}

impl Deed {
    /// What a request is about, by its method and path; none where nothing is known from before.
    pub fn of(method: &str, path: &str) -> Option<Self> {
        let segments: Vec<&str> = path.trim_matches('/').split('/').collect();
        let ["v1", segments @ ..] = segments.as_slice() else { return None };
        let own = |name: &&str| (*name).to_owned();
        let (of, compare) = match (method, segments) {
            ("PATCH", ["vms", name]) => (Of::Vm(own(name), OF_VM), Compare::Asked),
            ("DELETE", ["vms", name]) => (Of::Vm(own(name), OF_VM), Compare::All),
            ("POST", ["vms", _, "adopt"]) => return None,
            ("POST", ["vms", name, "attach" | "detach"]) => (Of::Vm(own(name), OF_VM_WITH_GPU), Compare::All),
            ("POST", ["vms", name, _]) => (Of::Vm(own(name), OF_VM_AT_WORK), Compare::All),
            ("PATCH", ["hosts", name]) => (Of::Host(own(name)), Compare::Asked),
            ("PUT", ["hosts", name]) | ("POST", ["hosts", name, _]) => (Of::Host(own(name)), Compare::All),
            ("PUT", ["gpus", "mode"]) => (Of::Gpus, Compare::Asked),
            ("PUT", ["gpus", host, address, "mode"]) => {
                (Of::Gpu(format!("{host}/{address}")), Compare::Asked)
            }
            ("PUT" | "DELETE", ["rules", name]) => (Of::Rule(own(name)), Compare::All),
            ("PUT", ["policy"]) => (Of::Policy, Compare::All),
            ("POST", ["failover", _]) => (Of::Failover, Compare::All),
            ("PUT", ["users", name]) => (Of::User(own(name)), Compare::Asked),
            ("DELETE", ["users", name]) => (Of::User(own(name)), Compare::All),
            ("DELETE", ["tokens", name]) => (Of::Token(own(name)), Compare::All),
            ("DELETE", ["cluster", "members", name]) => (Of::Member(own(name)), Compare::All),
            ("POST", ["cluster", "init" | "join" | "leave" | "replace" | "restore"]) => {
                (Of::Cluster, Compare::All)
            }
            ("POST", ["apply"]) => (Of::Declaration, Compare::Asked),
            _ => return None,
        };
        Some(Self { of, compare })
    }

    /// Which addresses tell what it was.
    pub fn told_at(&self) -> Vec<String> {
        match &self.of {
            Of::Vm(name, _) => vec![format!("/v1/vms/{name}")],
            Of::Host(name) => vec![format!("/v1/hosts/{name}")],
            Of::Gpu(key) => vec![format!("/v1/gpus/{key}")],
            Of::Gpus => vec!["/v1/gpus".to_owned()],
            Of::Rule(name) => vec![format!("/v1/rules/{name}")],
            Of::Policy | Of::Failover => vec!["/v1/policy".to_owned()],
            Of::User(_) => vec!["/v1/users".to_owned()],
            Of::Token(_) => vec!["/v1/tokens".to_owned()],
            Of::Member(_) | Of::Cluster => vec!["/v1/cluster".to_owned()],
            Of::Declaration => ["/v1/policy", "/v1/gpus", "/v1/vms", "/v1/rules"].map(str::to_owned).into(),
        }
    }

    /// Whether only another look at the same addresses tells what a request led to.
    pub fn is_seen_afterwards(&self, asked: &Value) -> bool {
        match &self.of {
            Of::Gpus => asked["selection"]["gpus"].as_array().is_none_or(Vec::is_empty),
            Of::Cluster => true,
            _ => false,
        }
    }

    /// What differs between two looks, if both could be had.
    pub fn changed_between(&self, told: &[Value], told_afterwards: &[Value]) -> Vec<Changed> {
        if [told, told_afterwards].into_iter().flatten().any(Value::is_null) {
            return Vec::new();
        }
        let (before, after) = (leaves(&self.before(told)), leaves(&self.before(told_afterwards)));
        let names: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
        differing(names, &before, &after)
    }

    /// What was otherwise, by the answers from [`Deed::told_at`] in order; what could not be had is null.
    pub fn changed(&self, told: &[Value], asked: &Value) -> Vec<Changed> {
        let (before, after) = (leaves(&self.before(told)), leaves(&self.after(asked)));
        if before.is_empty() && self.compare == Compare::All {
            return Vec::new();
        }
        let mut names: Vec<&String> = after.keys().collect();
        if self.compare == Compare::All {
            names.extend(before.keys().filter(|name| !after.contains_key(*name)));
        }
        differing(names, &before, &after)
    }

    fn before(&self, told: &[Value]) -> Value {
        let first = told.first().unwrap_or(&Value::Null);
        match &self.of {
            Of::Vm(_, fields) => some_of(first, fields),
            Of::Host(_) => of_host(first),
            Of::Gpu(_) => json!({ "mode": first["asked_mode"] }),
            Of::Gpus => modes(first),
            Of::Rule(_) | Of::Policy => first.clone(),
            Of::Failover => json!({ "failover": { "paused": first["failover"]["paused"] == json!(true) } }),
            Of::User(name) => some_of(named(first, "name", name), OF_USER),
            Of::Token(name) => some_of(named(first, "name", name), OF_TOKEN),
            Of::Member(name) => some_of(named(&first["members"], "host", name), OF_MEMBER),
            Of::Cluster => of_cluster(first),
            Of::Declaration => {
                let [policy, gpus, vms, rules] = [0, 1, 2, 3].map(|at| told.get(at).unwrap_or(&Value::Null));
                json!({ "policy": policy, "gpus": modes(gpus), "vms": by_name(vms, as_declared), "rules": rules })
            }
        }
    }

    /// What was asked for, in the same words.
    fn after(&self, asked: &Value) -> Value {
        match &self.of {
            Of::Gpu(_) => some_of(asked, &["mode"]),
            // The set may be all that are alike, so each GPU is one that was asked for; `before` has their modes.
            Of::Gpus => {
                let gpus =
                    asked["selection"]["gpus"].as_array().into_iter().flatten().filter_map(Value::as_str);
                gpus.map(|gpu| (gpu.to_owned(), asked["mode"].clone())).collect::<Map<_, _>>().into()
            }
            Of::Vm(_, fields) if *fields != OF_VM => some_of(asked, fields),
            Of::Declaration => {
                let key = |gpu: &Value| {
                    let address = gpu["address"].as_str()?;
                    Some(
                        gpu["host"]
                            .as_str()
                            .map_or_else(|| address.to_owned(), |host| format!("{host}/{address}")),
                    )
                };
                let gpus = asked["gpus"].as_array().into_iter().flatten();
                let gpus: Map<String, Value> =
                    gpus.filter_map(|gpu| Some((key(gpu)?, gpu["mode"].clone()))).collect();
                let empty = json!({});
                let or_none = |part: &str| asked.get(part).unwrap_or(&empty).clone();
                let vms = by_name(&asked["vms"], Clone::clone);
                json!({ "policy": or_none("policy"), "gpus": gpus, "vms": vms, "rules": or_none("rules") })
            }
            _ => asked.clone(),
        }
    }
}

/// The fields of these names that differ, as far as an entry has room.
fn differing<'n>(
    names: impl IntoIterator<Item = &'n String>,
    before: &BTreeMap<String, String>,
    after: &BTreeMap<String, String>,
) -> Vec<Changed> {
    let names = names.into_iter().filter(|name| before.get(*name) != after.get(*name));
    let mut changed: Vec<Changed> = names
        .map(|name| Changed {
            field: cut(name),
            before: before.get(name).cloned(),
            after: after.get(name).cloned(),
        })
        .collect();
    if changed.len() > FIELDS_MAX {
        changed.truncate(FIELDS_MAX);
        changed.push(Changed { field: CUT.to_owned(), before: None, after: None });
    }
    changed
}

fn some_of(value: &Value, fields: &[&str]) -> Value {
    let kept = fields.iter().filter_map(|field| Some(((*field).to_owned(), value.get(*field)?.clone())));
    kept.collect::<Map<_, _>>().into()
}

/// A host as it is asked for: its agent is a part of how it is fenced.
fn of_host(host: &Value) -> Value {
    let mut kept = some_of(&host["member"], OF_HOST);
    if let Some(fields) = kept.as_object_mut() {
        let fence: Map<String, Value> =
            ["agent", "leave_off"].into_iter().filter_map(|field| fields.remove_entry(field)).collect();
        if !fence.is_empty() {
            fields.insert("fence".to_owned(), fence.into());
        }
    }
    kept
}

/// What a host is in a cluster, and who is in that.
fn of_cluster(cluster: &Value) -> Value {
    let mut kept = some_of(cluster, OF_CLUSTER);
    let members = cluster["members"].as_array().into_iter().flatten();
    let members: Vec<Value> = members.map(|member| member["host"].clone()).collect();
    if let Some(fields) = kept.as_object_mut().filter(|_| !members.is_empty()) {
        fields.insert("members".to_owned(), members.into());
    }
    kept
}

fn named<'a>(list: &'a Value, field: &str, name: &str) -> &'a Value {
    let mut items = list.as_array().into_iter().flatten();
    items.find(|item| item[field] == name).unwrap_or(&Value::Null)
}

/// The modes that were asked for, by GPU.
fn modes(gpus: &Value) -> Value {
    let gpus = gpus.as_array().into_iter().flatten();
    let mode = |gpu: &Value| {
        let key = format!("{}/{}", gpu["host"].as_str()?, gpu["address"].as_str()?);
        Some((key, gpu["asked_mode"].clone()))
    };
    gpus.filter_map(mode).collect::<Map<_, _>>().into()
}

fn by_name(list: &Value, of: impl Fn(&Value) -> Value) -> Value {
    let items = list.as_array().into_iter().flatten();
    items.filter_map(|item| Some((item["name"].as_str()?.to_owned(), of(item)))).collect::<Map<_, _>>().into()
}

/// A VM in the words of a declaration.
fn as_declared(vm: &Value) -> Value {
    let mut declared = some_of(vm, &["name", "labels", "reserved", "availability", "prefer_numa_node"]);
    if let Some(fields) = declared.as_object_mut() {
        fields.insert("gpu".to_owned(), vm["request"].clone());
        fields.insert("running".to_owned(), json!(vm["run"] == "running" || vm["run"] == "reset"));
    }
    declared
}

/// Every field that has no fields of its own, by the way to it. Secrets are hidden.
fn leaves(value: &Value) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    collect(value, String::new(), &mut found);
    found
}

fn collect(value: &Value, way: String, found: &mut BTreeMap<String, String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let way = if way.is_empty() { name.clone() } else { format!("{way}.{name}") };
                if is_secret(name) {
                    drop(found.insert(way, HIDDEN.to_owned()));
                } else {
                    collect(value, way, found);
                }
            }
        }
        Value::Null => {}
        _ if way.is_empty() => {}
        Value::String(text) => drop(found.insert(way, cut(text))),
        Value::Array(items) => {
            // Fields of items may be secrets; so each item is gone through as well.
            let items: Vec<String> = items
                .iter()
                .map(|item| match item {
                    Value::String(text) => text.clone(),
                    Value::Object(_) => {
                        let pairs = leaves(item).into_iter().map(|(name, value)| format!("{name}={value}"));
                        pairs.collect::<Vec<_>>().join(" ")
                    }
                    other => other.to_string(),
                })
                .collect();
            found.insert(way, cut(&items.join(", ")));
        }
        other => drop(found.insert(way, other.to_string())),
    }
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(VALUE_LEN_MAX) {
        Some((end, _)) => format!("{}{CUT}", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(method: &str, path: &str, told: &[Value], asked: Value) -> Vec<String> {
        let deed = Deed::of(method, path).unwrap_or_else(|| panic!("{method} {path}"));
        let line = |changed: Changed| {
            let or_none = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
            format!("{}: {} -> {}", changed.field, or_none(changed.before), or_none(changed.after))
        };
        deed.changed(told, &asked).into_iter().map(line).collect()
    }

    #[test]
    fn of_what_was_asked_for_only_what_was_otherwise_is_told() {
        let users = json!([{ "name": "bert", "role": "viewer" }, { "name": "eve", "role": "admin" }]);
        let told =
            changed("PUT", "/v1/users/bert", &[users], json!({ "role": "operator", "password": "x1" }));
        assert_eq!(told, ["password: - -> (hidden)", "role: viewer -> operator"]);
        let vm = json!({ "state": "running", "reserved": false, "availability": { "priority": 100, "failover": "any" } });
        let asked = json!({ "reserved": false, "availability": { "priority": 500 } });
        assert_eq!(changed("PATCH", "/v1/vms/a", &[vm], asked), ["availability.priority: 100 -> 500"]);
    }

    #[test]
    fn what_a_whole_thing_loses_is_told_and_what_an_act_begins_from() {
        let rule = json!({ "kind": "apart", "vms": ["a", "b"], "strict": true });
        let asked = json!({ "kind": "apart", "vms": ["a", "c"] });
        assert_eq!(
            changed("PUT", "/v1/rules/r", std::slice::from_ref(&rule), asked),
            ["vms: a, b -> a, c", "strict: true -> -"]
        );
        let told = changed("DELETE", "/v1/rules/r", &[rule], Value::Null);
        assert_eq!(told, ["kind: apart -> -", "strict: true -> -", "vms: a, b -> -"]);
        let vm = json!({ "state": "stopped", "host": "node1", "memory_mib": 1 });
        assert_eq!(
            changed("POST", "/v1/vms/a/start", &[vm], json!({})),
            ["host: node1 -> -", "state: stopped -> -"]
        );
        assert!(changed("POST", "/v1/vms/a/start", &[Value::Null], json!({})).is_empty());
    }

    #[test]
    fn gpus_and_hosts_are_told_in_the_words_in_which_they_are_asked_for() {
        let gpu =
            |mode: &str| json!({ "host": "n1", "address": "0000:41:00.0", "asked_mode": { "mode": mode } });
        let split = json!({ "mode": { "mode": "partitioned", "count": 4 }, "drain": true });
        assert_eq!(
            changed("PUT", "/v1/gpus/n1/0000:41:00.0/mode", &[gpu("host")], split),
            ["mode.count: - -> 4", "mode.mode: host -> partitioned"]
        );
        let asked = json!({ "selection": { "gpus": ["n1/0000:41:00.0"] }, "mode": { "mode": "host" } });
        assert_eq!(
            changed("PUT", "/v1/gpus/mode", &[json!([gpu("partitioned")])], asked),
            ["n1/0000:41:00.0.mode: partitioned -> host"]
        );
        let host = json!({ "member": { "duty": "serve", "labels": { "rack": "r1" }, "agent": "fence_a" } });
        let asked = json!({ "labels": { "rack": "r2" }, "fence": { "agent": "fence_a", "options": { "passwd": "p1" } } });
        assert_eq!(
            changed("PUT", "/v1/hosts/n1", &[host], asked),
            ["fence.options.passwd: - -> (hidden)", "labels.rack: r1 -> r2", "duty: serve -> -"]
        );
    }

    /// What differs between what was told before a request and after it.
    fn seen(method: &str, path: &str, asked: &Value, [before, after]: [Value; 2]) -> Vec<String> {
        let deed = Deed::of(method, path).unwrap_or_else(|| panic!("{method} {path}"));
        assert!(deed.is_seen_afterwards(asked), "{method} {path}");
        deed.changed_between(&[before], &[after]).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn which_gpus_a_set_means_is_seen_afterwards() {
        let gpus = |modes: [&str; 3]| -> Value {
            let gpu = |(number, mode): (usize, &str)| json!({ "host": format!("n{number}"), "address": "0000:41:00.0", "asked_mode": { "mode": mode } });
            modes.into_iter().enumerate().map(gpu).collect::<Vec<_>>().into()
        };
        let (before, after) = (gpus(["host", "host", "passthrough"]), gpus(["partitioned", "host", "host"]));
        for selection in [json!({}), json!({ "like": "n0/0000:41:00.0" })] {
            let asked = json!({ "selection": selection, "mode": { "mode": "partitioned" } });
            assert_eq!(
                seen("PUT", "/v1/gpus/mode", &asked, [before.clone(), after.clone()]),
                ["n0/0000:41:00.0.mode: host → partitioned", "n2/0000:41:00.0.mode: passthrough → host"]
            );
        }
        let by_name = json!({ "selection": { "gpus": ["n0/0000:41:00.0"] }, "mode": { "mode": "host" } });
        let deed = Deed::of("PUT", "/v1/gpus/mode").unwrap();
        assert!(!deed.is_seen_afterwards(&by_name), "it tells by itself");
    }

    #[test]
    fn what_a_host_is_in_a_cluster_and_who_is_in_that_is_told_before_and_after() {
        let alone = json!({ "host": "n1", "standing": "alone", "members": [] });
        let of = |standing: &str, members: &[&str]| {
            let members: Vec<Value> =
                members.iter().map(|host| json!({ "host": host, "address": "a" })).collect();
            json!({ "host": "n1", "standing": standing, "cluster": "lab", "members": members })
        };
        let asked = json!({ "token": "TRANCHE1.secret" });
        for path in ["/v1/cluster/init", "/v1/cluster/join"] {
            let told = seen("POST", path, &asked, [alone.clone(), of("entering", &[])]);
            assert_eq!(told, ["cluster: none → lab", "standing: alone → entering"]);
        }
        let told =
            seen("POST", "/v1/cluster/leave", &Value::Null, [of("member", &["n1", "n2"]), alone.clone()]);
        assert_eq!(told, ["cluster was lab", "members was n1, n2", "standing: member → alone"]);
        let both = [of("member", &["n1", "n2"]), of("member", &["n1"])];
        let told = seen("POST", "/v1/cluster/replace", &json!({ "host": "n2" }), both);
        assert_eq!(told, ["members: n1, n2 → n1"]);
        assert!(seen("POST", "/v1/cluster/restore", &Value::Null, [alone, Value::Null]).is_empty());
        for path in ["/v1/cluster/tokens", "/v1/cluster/defragment"] {
            assert_eq!(Deed::of("POST", path), None, "{path}: there is nothing that was otherwise");
        }
    }

    #[test]
    fn a_declaration_is_compared_part_by_part() {
        let told = [
            json!({ "placement": "pack" }),
            json!([{ "host": "n1", "address": "0000:41:00.0", "asked_mode": { "mode": "host" } }]),
            json!([{ "name": "a", "request": { "kind": "none" }, "run": "stopped" }]),
            json!({}),
        ];
        let asked = json!({
            "policy": { "placement": "spread" },
            "gpus": [{ "host": "n1", "address": "0000:41:00.0", "mode": { "mode": "passthrough" } }],
            "vms": [{ "name": "a", "running": true }],
        });
        let told = changed("POST", "/v1/apply", &told, asked);
        let expected = [
            "gpus.n1/0000:41:00.0.mode: host -> passthrough",
            "policy.placement: pack -> spread",
            "vms.a.running: false -> true",
        ];
        assert_eq!(told, expected);
    }

    #[test]
    fn no_entry_grows_without_bound_and_no_secret_is_in_one() {
        let labels: Map<String, Value> = (0..100).map(|n| (format!("l{n:03}"), json!("v"))).collect();
        let told = changed("PUT", "/v1/hosts/n1", &[json!({ "member": { "labels": labels } })], json!({}));
        assert_eq!((told.len(), told[40].as_str()), (41, "…: - -> -"));
        let long = changed("PATCH", "/v1/vms/a", &[Value::Null], json!({ "x": "ü".repeat(500) }));
        assert_eq!(long[0].chars().filter(|letter| *letter == 'ü').count(), 200);
        let nested = json!({ "x": [{ "password": "p1" }], "token": { "deep": "t1" } });
        let told = changed("PATCH", "/v1/vms/a", &[Value::Null], nested).join("\n");
        assert!(!told.contains("p1") && !told.contains("t1"), "{told}");
    }

    #[test]
    fn what_makes_something_new_was_nothing_before() {
        for (method, path) in
            [("POST", "/v1/vms"), ("POST", "/v1/vms/a/adopt"), ("POST", "/v1/tokens"), ("GET", "/v1/vms/a")]
        {
            assert_eq!(Deed::of(method, path), None, "{method} {path}");
        }
    }
}
