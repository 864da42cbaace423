//! What of a processor guests can use: a VM that moves while it runs must find all of it on the other host.
//!
//! Two hosts with one model of processor may differ in it, by firmware settings and microcode: without TSX, without AVX-512. What only
//! the host uses (power management, measuring) is left out, because it keeps no VM from moving.

use std::collections::BTreeSet;

/// The flags of `/proc/cpuinfo` that stand for what KVM lets guests use (arch/x86/kvm/cpuid.c, `kvm_set_cpu_caps`), sorted.
#[rustfmt::skip]
const OF_GUESTS: &[&str] = &[
    "3dnowprefetch", "abm", "adx", "aes", "amx_bf16", "amx_complex", "amx_fp16", "amx_int8", "amx_tile",
    "arch_capabilities", "avx", "avx2", "avx512_4fmaps", "avx512_4vnniw", "avx512_bf16", "avx512_bitalg",
    "avx512_fp16", "avx512_vbmi2", "avx512_vnni", "avx512_vpopcntdq", "avx512bw", "avx512cd", "avx512dq",
    "avx512er", "avx512f", "avx512ifma", "avx512pf", "avx512vbmi", "avx512vl", "avx_ifma", "avx_ne_convert",
    "avx_vnni", "avx_vnni_int16", "avx_vnni_int8", "bmi1", "bmi2", "bus_lock_detect", "cldemote", "clflush",
    "clflushopt", "clwb", "clzero", "cmpccxadd", "cx16", "cx8", "erms", "f16c", "flush_l1d", "fma", "fma4",
    "fsgsbase", "fsrm", "fxsr", "fxsr_opt", "gfni", "hle", "ibpb", "ibrs", "invpcid", "la57", "lahf_lm", "lwp",
    "md_clear", "misalignsse", "mmx", "mmxext", "movbe", "movdir64b", "movdiri", "mpx", "nx", "pcid",
    "pclmulqdq", "pdpe1gb", "pku", "pni", "popcnt", "prefetchi", "rdpid", "rdrand", "rdseed", "rdtscp", "rtm",
    "serialize", "sha512", "sha_ni", "sm3", "sm4", "smap", "smep", "ssbd", "sse", "sse2", "sse4_1", "sse4_2",
    "sse4a", "ssse3", "stibp", "svm", "syscall", "tbm", "tsx_ldtrk", "umip", "user_shstk", "vaes", "virt_ssbd",
    "vmx", "vpclmulqdq", "waitpkg", "wbnoinvd", "xop", "xsave", "xsavec", "xsaveerptr", "xsaveopt", "xsaves",
];

/// What guests can use of the first processor that `cpuinfo` begins with. Nothing where the kernel does not say it in this form, or
/// where the line was cut.
pub(crate) fn features(cpuinfo: &str) -> BTreeSet<String> {
    let whole = cpuinfo.rfind('\n').map_or("", |end| &cpuinfo[..end]);
    let flags = whole.lines().find_map(|line| {
        let (name, flags) = line.split_once(':')?;
        (name.trim() == "flags").then_some(flags)
    });
    let is_of_guests = |flag: &&str| OF_GUESTS.binary_search(flag).is_ok();
    flags.unwrap_or_default().split_whitespace().filter(is_of_guests).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_sorted_for_the_search() {
        assert!(OF_GUESTS.is_sorted());
    }

    #[test]
    fn what_guests_can_use_is_told_apart_from_what_is_the_hosts() {
        let cpuinfo = "processor\t: 0\nflags\t\t: fpu avx2 ida hwp rtm avx512f\nbugs\t\t: mds\nprocessor\t: 1\nflags\t\t: la57\n";
        let found: Vec<String> = features(cpuinfo).into_iter().collect();
        assert_eq!(found, ["avx2", "avx512f", "rtm"]);
    }

    #[test]
    fn a_line_that_was_cut_tells_nothing() {
        assert!(features("processor\t: 0\nflags\t\t: fpu avx2 avx512").is_empty());
        assert!(features("").is_empty());
    }
}
