//! Where a span stands: the header `traceparent` of W3C Trace Context, version 00.

use std::fmt;
use std::str::FromStr;

use ring::rand::{SecureRandom as _, SystemRandom};

/// Where a span stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Context {
    /// The trace.
    pub trace: [u8; 16],
    /// The span.
    pub span: [u8; 8],
    /// Whether the trace is kept.
    pub is_kept: bool,
}

impl Context {
    /// The first place of a new trace. Of `one_in` of them, one is kept.
    pub(super) fn begin(one_in: u64) -> Self {
        let trace: [u8; 16] = random();
        let [_, _, _, _, _, _, _, _, drawn @ ..] = trace;
        let is_kept = u64::from_be_bytes(drawn).is_multiple_of(one_in.max(1));
        Self { trace, span: random(), is_kept }
    }

    /// A new place in the same trace.
    pub(super) fn beside(self) -> Self {
        Self { span: random(), ..self }
    }
}

fn random<const LEN: usize>() -> [u8; LEN] {
    let mut bytes = [0; LEN];
    // Without randomness there would be no TLS either; spans that are all zero are told from none by nobody.
    let _ = SystemRandom::new().fill(&mut bytes);
    bytes
}

/// What is no `traceparent`.
#[derive(Debug, PartialEq, Eq)]
pub struct NoContext;

impl FromStr for Context {
    type Err = NoContext;

    fn from_str(text: &str) -> Result<Self, NoContext> {
        let mut parts = text.split('-');
        let mut next = || parts.next().ok_or(NoContext);
        let (version, trace, span, flags) = (next()?, next()?, next()?, next()?);
        let [version] = bytes(version)?;
        // Later versions may say more behind what this one says.
        if version == 0xff || version == 0 && parts.next().is_some() {
            return Err(NoContext);
        }
        let ([flags], trace, span) = (bytes(flags)?, bytes(trace)?, bytes(span)?);
        if trace == [0; 16] || span == [0; 8] {
            return Err(NoContext);
        }
        Ok(Self { trace, span, is_kept: flags & 1 == 1 })
    }
}

/// So many bytes in lower-case hexadecimal digits, and nothing else.
fn bytes<const LEN: usize>(text: &str) -> Result<[u8; LEN], NoContext> {
    let digits = text.as_bytes();
    let is_digit = |digit: &u8| matches!(digit, b'0'..=b'9' | b'a'..=b'f');
    if digits.len() != 2 * LEN || !digits.iter().all(is_digit) {
        return Err(NoContext);
    }
    let mut bytes = [0; LEN];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let pair = std::str::from_utf8(pair).map_err(|_| NoContext)?;
        *byte = u8::from_str_radix(pair, 16).map_err(|_| NoContext)?;
    }
    Ok(bytes)
}

impl fmt::Display for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (trace, span) = (u128::from_be_bytes(self.trace), u64::from_be_bytes(self.span));
        write!(f, "00-{trace:032x}-{span:016x}-{:02x}", u8::from(self.is_kept))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_client_says_is_read_as_it_was_written_and_anything_else_is_nothing() {
        let kept = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let read: Context = kept.parse().unwrap();
        assert!(read.is_kept);
        assert_eq!(read.to_string(), kept);
        let dropped = kept.replace("-01", "-00");
        assert!(!dropped.parse::<Context>().unwrap().is_kept);
        let later = kept.replacen("00", "01", 1) + "-more";
        assert_eq!(later.parse(), Ok(read), "a later version is read as far as this one knows it");
        for wrong in [
            "",
            "00",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-+af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ] {
            assert_eq!(wrong.parse::<Context>(), Err(NoContext), "{wrong}");
        }
    }

    #[test]
    fn of_so_many_traces_about_one_is_kept_and_whoever_follows_one_decides_no_more() {
        assert!(Context::begin(1).is_kept);
        let kept = (0..4_000).filter(|_| Context::begin(4).is_kept).count();
        assert!((700..1_300).contains(&kept), "{kept}");
        let dropped = Context { is_kept: false, ..Context::begin(1) };
        let beside = dropped.beside();
        assert!(!beside.is_kept && beside.trace == dropped.trace && beside.span != dropped.span);
    }
}
