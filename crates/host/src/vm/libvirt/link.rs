//! A connection to libvirtd with its events.
//!
//! The binding does not wrap events, so they are registered by hand here; this is the only unsafe code about libvirt.
//! libvirt needs an event loop of its own for them, and for the keepalive that ends calls to a hung libvirtd.

use std::ffi::{c_int, c_void};
use std::sync::{Arc, Once};
use std::time::Duration;

use uuid::Uuid;
use virt::connect::Connect;
use virt::error::Error;
use virt_sys as sys;

/// What libvirt tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum News {
    /// A domain has changed.
    Changed(Uuid),
    /// A domain was stopped in its tracks.
    Suspended(Uuid),
    /// Something else happened, or the connection ended.
    Any,
}

/// Told of every event.
pub(super) type Listener = Arc<dyn Fn(News) + Send + Sync>;

/// After so many seconds without an answer libvirtd is asked whether it lives …
const KEEPALIVE_S: i32 = 5;
/// … and after so many questions without an answer the connection is given up.
const KEEPALIVE_TRIES: u32 = 3;

/// How many kinds of events are asked for.
const EVENTS: usize = 3;

/// A connection. Dropping it closes it.
#[derive(Debug)]
pub(super) struct Link {
    connect: Connect,
    registered: Vec<c_int>,
    has_close_callback: bool,
}

impl Link {
    /// Connects, and registers for everything that changes what an observation shows.
    ///
    /// Events and keepalive are extras: libvirt's test driver has neither, and the slow tick sees what they would tell.
    pub(super) fn open(uri: &str, listener: &Listener) -> Result<Self, Error> {
        run_event_loop();
        let connect = Connect::open(Some(uri))?;
        let mut link = Self { connect, registered: Vec::new(), has_close_callback: false };
        if let Err(error) = link.connect.set_keep_alive(KEEPALIVE_S, KEEPALIVE_TRIES) {
            tracing::debug!(%error, uri, "libvirt offers no keepalive");
        }
        link.register(listener);
        Ok(link)
    }

    /// The connection.
    pub(super) fn connect(&self) -> &Connect {
        &self.connect
    }

    /// Whether the connection still stands. Asks nobody, so it cannot hang.
    pub(super) fn is_alive(&self) -> bool {
        self.connect.is_alive().unwrap_or(false)
    }

    /// Whether libvirt tells of every change of a domain, and that the connection ended.
    pub(super) fn has_events(&self) -> bool {
        self.registered.len() == EVENTS && self.has_close_callback
    }

    fn register(&mut self, listener: &Listener) {
        // SAFETY: libvirt calls back with the arguments of the kind of event that was registered for, whatever the
        // declared type; its own header casts in the same way (VIR_DOMAIN_EVENT_CALLBACK).
        let lifecycle = unsafe {
            std::mem::transmute::<sys::virConnectDomainEventCallback, sys::virConnectDomainEventGenericCallback>(
                Some(on_lifecycle),
            )
        };
        // SAFETY: as above; the events for added and removed devices share one signature.
        let device = unsafe {
            std::mem::transmute::<
                sys::virConnectDomainEventDeviceAddedCallback,
                sys::virConnectDomainEventGenericCallback,
            >(Some(on_device))
        };
        let events: [_; EVENTS] = [
            (sys::VIR_DOMAIN_EVENT_ID_LIFECYCLE, lifecycle),
            (sys::VIR_DOMAIN_EVENT_ID_DEVICE_ADDED, device),
            (sys::VIR_DOMAIN_EVENT_ID_DEVICE_REMOVED, device),
        ];
        for (event, callback) in events {
            let opaque = into_opaque(listener);
            // SAFETY: the connection is open, the callback fits the event, and `opaque` is what `forget` frees, which
            // libvirt calls once when the registration ends.
            let id = unsafe {
                sys::virConnectDomainEventRegisterAny(
                    self.connect.as_ptr(),
                    std::ptr::null_mut(),
                    event.cast_signed(),
                    callback,
                    opaque,
                    Some(forget),
                )
            };
            if id < 0 {
                tracing::debug!(error = %Error::last_error(), event, "libvirt offers no such event");
                // SAFETY: a registration that failed does not take `opaque`.
                unsafe { forget(opaque) };
            } else {
                self.registered.push(id);
            }
        }
        let opaque = into_opaque(listener);
        // SAFETY: as for the events.
        let result = unsafe {
            sys::virConnectRegisterCloseCallback(self.connect.as_ptr(), Some(on_close), opaque, Some(forget))
        };
        self.has_close_callback = result == 0;
        if !self.has_close_callback {
            // SAFETY: a registration that failed does not take `opaque`.
            unsafe { forget(opaque) };
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        // Each registration holds the connection: closing alone would leave it open.
        for id in &self.registered {
            // SAFETY: the connection is open on our side, and the id came from it.
            unsafe { sys::virConnectDomainEventDeregisterAny(self.connect.as_ptr(), *id) };
        }
        if self.has_close_callback {
            // SAFETY: the callback is the one that was registered.
            unsafe { sys::virConnectUnregisterCloseCallback(self.connect.as_ptr(), Some(on_close)) };
        }
        if let Err(error) = self.connect.close() {
            tracing::debug!(%error, "a connection to libvirt could not be closed");
        }
    }
}

/// Starts libvirt's event loop, once, before the first connection: a later one would have no events.
fn run_event_loop() {
    static STARTED: Once = Once::new();
    STARTED.call_once(|| {
        // Errors come back as results; libvirt would print them to the standard error output as well.
        virt::error::clear_error_callback();
        if let Err(error) = virt::event::event_register_default_impl() {
            tracing::warn!(%error, "libvirt's event loop is not available; changes are seen at the next tick only");
            return;
        }
        let run = || {
            loop {
                if let Err(error) = virt::event::event_run_default_impl() {
                    tracing::warn!(%error, "libvirt's event loop stumbled");
                    // Whatever it stumbled over is likely still there.
                    std::thread::sleep(Duration::from_secs(1));
                }
            }
        };
        if let Err(error) = std::thread::Builder::new().name("libvirt-events".to_owned()).spawn(run) {
            tracing::warn!(%error, "libvirt's event loop has no thread; changes are seen at the next tick only");
        }
    });
}

fn into_opaque(listener: &Listener) -> *mut c_void {
    Box::into_raw(Box::new(Arc::clone(listener))).cast()
}

/// Frees what [`into_opaque`] made.
///
/// # Safety
/// `opaque` came from [`into_opaque`] and is not used again.
unsafe extern "C" fn forget(opaque: *mut c_void) {
    // SAFETY: the caller's promise.
    drop(unsafe { Box::from_raw(opaque.cast::<Listener>()) });
}

/// # Safety
/// `opaque` came from [`into_opaque`] and has not been freed; `domain` is valid or null.
unsafe fn tell(domain: sys::virDomainPtr, about: fn(Uuid) -> News, opaque: *mut c_void) {
    // SAFETY: the caller's promise.
    let listener = unsafe { &*opaque.cast::<Listener>() };
    let mut bytes = [0_u8; 16];
    // SAFETY: the pointer is valid during the callback, and a UUID has 16 bytes (VIR_UUID_BUFLEN).
    let known = !domain.is_null() && unsafe { sys::virDomainGetUUID(domain, bytes.as_mut_ptr()) } == 0;
    listener(if known { about(Uuid::from_bytes(bytes)) } else { News::Any });
}

unsafe extern "C" fn on_lifecycle(
    _: sys::virConnectPtr,
    domain: sys::virDomainPtr,
    event: c_int,
    _detail: c_int,
    opaque: *mut c_void,
) -> c_int {
    let is_suspended = u32::try_from(event) == Ok(sys::VIR_DOMAIN_EVENT_SUSPENDED);
    let about = if is_suspended { News::Suspended } else { News::Changed };
    // SAFETY: libvirt passes a valid domain, and the `opaque` of the registration, which still stands.
    unsafe { tell(domain, about, opaque) };
    0
}

unsafe extern "C" fn on_device(
    _: sys::virConnectPtr,
    domain: sys::virDomainPtr,
    _alias: *const std::ffi::c_char,
    opaque: *mut c_void,
) {
    // SAFETY: as in `on_lifecycle`.
    unsafe { tell(domain, News::Changed, opaque) };
}

unsafe extern "C" fn on_close(_: sys::virConnectPtr, _reason: c_int, opaque: *mut c_void) {
    // SAFETY: as in `on_lifecycle`, without a domain.
    unsafe { tell(std::ptr::null_mut(), News::Changed, opaque) };
}
