//! A guest beside its GPU: on the processors of the GPU's NUMA node, with memory from there.
//!
//! Only domains that Tranche makes get this, while they hold a GPU, and only where their definition says nothing about it: a
//! user's own `numatune`, or processors that a user chose, stay. Memory is preferred and not demanded (libvirt:
//! docs/formatdomain, "NUMA Node Tuning"), so that a guest starts on a full node, too. What is ours is noted in the metadata, in
//! a name space of its own because libvirt keeps one element of each, and goes away with the devices.

use std::ops::Range;

use roxmltree::Node;
use tranche_core::step::Near;

use super::child;
use super::devices::{place, with_space_before};

/// Marks what is ours, and says what we wrote. It is a name, not a page.
const NAMESPACE: &str = "https://github.com/tranche-project/tranche/near/1";

/// Where to put what, for a domain that says nothing about it yet.
pub(super) fn insertions(domain: Node<'_, '_>, xml: &str, near: &Near) -> Vec<(Range<usize>, String)> {
    let vcpu = child(domain, "vcpu").filter(|vcpu| {
        vcpu.attribute("cpuset").is_none() && vcpu.attribute("placement").is_none_or(|is| is == "static")
    });
    let (Some(vcpu), Some(metadata), None, None) =
        (vcpu, child(domain, "metadata"), child(domain, "numatune"), child(domain, "cputune"))
    else {
        return Vec::new();
    };
    let Near { node, cpus } = near;
    let at = vcpu.range().start + "<vcpu".len();
    let mark = format!("\n    <near:node xmlns:near='{NAMESPACE}' id='{node}' cpus='{cpus}'/>");
    let memory = format!("\n  <numatune>\n    <memory mode='preferred' nodeset='{node}'/>\n  </numatune>");
    vec![
        place(xml, metadata, &mark),
        (at..at, format!(" cpuset='{cpus}'")),
        (vcpu.range().end..vcpu.range().end, memory),
    ]
}

/// Where what is ours stands in the text. What somebody has changed since is theirs.
pub(super) fn ours<'a>(domain: Node<'a, '_>, xml: &'a str) -> Vec<Range<usize>> {
    let mark = child(domain, "metadata")
        .and_then(|metadata| metadata.children().find(|node| node.has_tag_name((NAMESPACE, "node"))));
    let Some(mark) = mark else { return Vec::new() };
    let memory = child(domain, "numatune").filter(|tuning| {
        let memory = child(*tuning, "memory");
        let is_ours = memory.is_some_and(|memory| {
            memory.attribute("mode") == Some("preferred")
                && memory.attribute("nodeset") == mark.attribute("id")
        });
        is_ours && tuning.children().filter(Node::is_element).count() == 1
    });
    let cpuset = child(domain, "vcpu").and_then(|vcpu| vcpu.attribute_node("cpuset"));
    let cpuset = cpuset.filter(|cpuset| Some(cpuset.value()) == mark.attribute("cpus"));
    let elements = memory.into_iter().chain([mark]).map(|element| with_space_before(xml, element.range()));
    elements.chain(cpuset.map(|cpuset| with_space_before(xml, cpuset.range()))).collect()
}
