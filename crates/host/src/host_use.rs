//! Who on the host itself uses a function: the processes that have its driver's device nodes open.
//!
//! Unbinding asks none of them. NVIDIA's driver waits in the kernel, for ever, until its node is closed (`nv_pci_remove`
//! in NVIDIA's open kernel modules); a sound card's driver does the same (kernel: sound/core/init.c, `snd_card_free`);
//! xe and amdgpu are pulled from under whoever draws or computes. So who it is has to be known before.
//!
//! A process that opens a node between the look and the write is not seen; the write's limit is there for it.

use tranche_core::finding::{Code, Finding};
use tranche_core::inventory::Holder;
use tranche_core::name::PciAddress;

use crate::calls::GpuCalls;
use crate::discover::function;
use crate::discover::holders::users_of_nodes;
use crate::{report, vgpu};

/// NVIDIA's service that does nothing but keep GPUs open.
const NVIDIA_KEEPER: &str = "nvidia-persistenced";

/// The kernel shows this much of a process's name (TASK_COMM_LEN, less the zero at its end).
const COMMAND_LEN: usize = 15;

/// The processes that use a function through its driver.
pub(crate) fn users(calls: &GpuCalls<'_>, function: PciAddress) -> Vec<Holder> {
    let (tree, dir) = (calls.tree(), function::dir(function));
    let listed = |class: &str| tree.list(&format!("{dir}/{class}")).unwrap_or_default();
    let drawing: Vec<String> = listed("drm").into_iter().map(|name| format!("/dev/dri/{name}")).collect();
    let cards: Vec<u32> =
        listed("sound").iter().filter_map(|name| name.strip_prefix("card")?.parse().ok()).collect();
    let is_nvidias = function::driver(tree, &dir).as_deref() == Some(vgpu::DRIVER);
    let vendors = is_nvidias.then(|| vgpu::own_node(calls, function));
    if drawing.is_empty() && cards.is_empty() && vendors.is_none() {
        return Vec::new();
    }
    users_of_nodes(tree, |node| {
        let sounds =
            || node.as_str().strip_prefix("/dev/snd/").and_then(card).is_some_and(|n| cards.contains(&n));
        drawing.iter().any(|known| node == known)
            || sounds()
            || vendors.as_ref().is_some_and(|is_own| is_own(node))
    })
}

/// The card that a node under `/dev/snd` belongs to: 1 of `controlC1` and of `pcmC1D3p`.
fn card(node: &str) -> Option<u32> {
    let (_, numbers) = node.split_once('C')?;
    numbers.split('D').next()?.parse().ok()
}

/// What to do about users, who stand in the way.
pub(crate) fn in_the_way(calls: &GpuCalls<'_>, function: PciAddress, users: &[Holder]) -> Box<Finding> {
    let gpu = calls.gpu();
    let names: Vec<String> = users.iter().map(tranche_core::diagnostics::describe_holder).collect();
    let message = format!(
        "Function {function} of GPU {gpu} is in use on the host itself by {}, so it stays with its driver.",
        tranche_core::diagnostics::list(&names)
    );
    let keeps = |user: &Holder| user.command == NVIDIA_KEEPER[..COMMAND_LEN] || user.command == NVIDIA_KEEPER;
    let mut hint = String::new();
    if users.iter().any(keeps) {
        hint.push_str(&format!("'systemctl stop {NVIDIA_KEEPER}' makes {NVIDIA_KEEPER} let go. "));
    }
    if users.iter().any(|user| !keeps(user)) {
        hint.push_str(
            "End what has the GPU open; a display server ends with 'systemctl isolate multi-user.target'. ",
        );
    }
    hint.push_str("It is tried again by itself.");
    report::error(gpu, Code::PartitionsInUse, message, hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sound_node_tells_its_card() {
        for (node, number) in [("controlC0", 0), ("pcmC12D3p", 12), ("hwC1D0", 1), ("midiC2D0", 2)] {
            assert_eq!(card(node), Some(number), "{node}");
        }
        for node in ["seq", "timer", "by-path", "controlC", "CD"] {
            assert_eq!(card(node), None, "{node}");
        }
    }
}
