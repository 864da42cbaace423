//! Limits of the wire. What is larger is refused with a finding, never cut short.

/// The largest request body, in bytes: 1 MiB. The largest sensible request is a declaration of some thousand VMs.
pub const BODY_LEN_MAX: usize = 1024 * 1024;

/// How long a request may take to be answered, in milliseconds. Long work is an operation, and answers at once.
pub const REQUEST_TIMEOUT_MS: u64 = 30_000;

/// The longest that an answer about an operation may wait for its end, in milliseconds. Well below
/// [`REQUEST_TIMEOUT_MS`], so that waiting is never taken for a daemon that does not answer.
pub const OPERATION_WAIT_MAX_MS: u64 = 10_000;

/// The most items on a page of a list. Who asks for no page gets the whole list.
pub const PAGE_LEN_MAX: usize = 1_000;

/// The most events that wait for one slow reader; one more, and it is hung up on. It reads anew and misses nothing.
pub const EVENT_QUEUE_LEN_MAX: usize = 64;

/// The most readers of the event stream at once: each open page of the console is one.
pub const EVENT_READERS_MAX: usize = 512;

/// The most subjects that one event names; a larger change names the installation.
pub const EVENT_SUBJECTS_MAX: usize = 256;
