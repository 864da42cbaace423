//! Consoles of guests that are made up: a serial line that says back what it is told, and a screen with a plain picture.
//!
//! Both speak as the real ones do, a terminal's characters and RFB 3.8 (RFC 6143), so that whatever shows them is tried for real. The
//! screen has one size, one encoding and no password; its bars are alight while a key is pressed, so that it shows that keys arrive.

use std::io::{self, Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tranche_core::diagnostics as say;
use tranche_core::finding::Finding;
use tranche_core::name::VmName;

use crate::vm::refusal;

const WIDTH: u16 = 320;
const HEIGHT: u16 = 200;
/// Red, green and blue of what the picture has in it.
const GROUND: [u8; 3] = [0x1c, 0x2a, 0x3a];
const BAR: [u8; 3] = [0x4c, 0x8c, 0xb0];
const ALIGHT: [u8; 3] = [0xf0, 0xa0, 0x30];
/// Where red, green and blue are in a pixel, unless the other side wants them elsewhere.
const SHIFTS: [u8; 3] = [16, 8, 0];
/// The longest text of a clipboard that is read over, in bytes.
const TEXT_LEN_MAX: u32 = 1 << 20;

/// What is open of a guest that runs. Dropping it closes all.
#[derive(Debug, Default)]
pub(super) struct Consoles {
    serial: Option<Line>,
    screens: Vec<Line>,
}

/// The guest's end of an open console.
#[derive(Debug)]
struct Line {
    end: UnixStream,
    is_over: Arc<AtomicBool>,
}

impl Drop for Line {
    fn drop(&mut self) {
        // It may be closed already.
        let _ = self.end.shutdown(Shutdown::Both);
    }
}

impl Consoles {
    /// Opens the serial console, for one at a time.
    pub(super) fn open_serial(&mut self, vm: &VmName, force: bool) -> Result<UnixStream, Box<Finding>> {
        let is_taken = self.serial.as_ref().is_some_and(|line| !line.is_over.load(Ordering::Acquire));
        if is_taken && !force {
            return Err(Box::new(say::console_busy(vm)));
        }
        let greeting = format!("{vm}: this guest is made up, and says back what is typed.\r\n");
        let (line, theirs) = Line::open(vm, move |end| echo(end, &greeting))?;
        self.serial = Some(line);
        Ok(theirs)
    }

    /// Opens the screen once more.
    pub(super) fn open_screen(&mut self, vm: &VmName) -> Result<UnixStream, Box<Finding>> {
        self.screens.retain(|line| !line.is_over.load(Ordering::Acquire));
        let name = vm.to_string();
        let (line, theirs) = Line::open(vm, move |end| Screen::new(end, name).run())?;
        self.screens.push(line);
        Ok(theirs)
    }
}

impl Line {
    fn open(
        vm: &VmName,
        guest: impl FnOnce(UnixStream) -> io::Result<()> + Send + 'static,
    ) -> Result<(Self, UnixStream), Box<Finding>> {
        let refused = |error: io::Error| refusal::refused(vm, "open a console", &error.to_string(), "");
        let (end, theirs) = UnixStream::pair().map_err(refused)?;
        let is_over = Arc::new(AtomicBool::new(false));
        let (guests, over) = (end.try_clone().map_err(refused)?, Arc::clone(&is_over));
        let run = move || {
            // It ends when either side closes it.
            let _ = guest(guests);
            over.store(true, Ordering::Release);
        };
        std::thread::Builder::new().name("fake-console".to_owned()).spawn(run).map_err(refused)?;
        Ok((Self { end, is_over }, theirs))
    }
}

/// A terminal's line, as a guest without a shell has it.
fn echo(mut end: UnixStream, greeting: &str) -> io::Result<()> {
    end.write_all(greeting.as_bytes())?;
    let mut typed = [0; 1024];
    loop {
        let len = end.read(&mut typed)?;
        if len == 0 {
            return Ok(());
        }
        let mut shown = Vec::with_capacity(len);
        for byte in &typed[..len] {
            match byte {
                b'\r' => shown.extend(b"\r\n"),
                // What a terminal sends for its key to go back over what was typed.
                0x7f => shown.extend(b"\x08 \x08"),
                other => shown.push(*other),
            }
        }
        end.write_all(&shown)?;
    }
}

/// A VNC server.
struct Screen {
    end: UnixStream,
    name: String,
    shifts: [u8; 3],
    is_alight: bool,
    /// Whether the picture has changed since it was sent last.
    is_new: bool,
    /// Whether the other side waits for it to change.
    is_awaited: bool,
}

impl Screen {
    fn new(end: UnixStream, name: String) -> Self {
        Self { end, name, shifts: SHIFTS, is_alight: false, is_new: true, is_awaited: false }
    }

    fn run(mut self) -> io::Result<()> {
        self.greet()?;
        loop {
            match self.read::<1>()? {
                // SetPixelFormat: of it, where the colours are; it stays with 32 bits a pixel, which is what viewers ask for.
                [0] => {
                    let [.., red, green, blue, _, _, _] = self.read::<19>()?;
                    self.shifts = [red, green, blue].map(|shift| shift % 32);
                }
                // SetEncodings: raw, which all have to take.
                [2] => {
                    let [_, high, low] = self.read()?;
                    for _ in 0..u16::from_be_bytes([high, low]) {
                        self.read::<4>()?;
                    }
                }
                // FramebufferUpdateRequest.
                [3] => {
                    let [incremental, ..] = self.read::<9>()?;
                    self.is_new |= incremental == 0;
                    self.is_awaited = true;
                }
                // KeyEvent.
                [4] => {
                    let [down, ..] = self.read::<7>()?;
                    self.is_new |= self.is_alight != (down == 1);
                    self.is_alight = down == 1;
                }
                // PointerEvent.
                [5] => drop(self.read::<5>()?),
                // ClientCutText.
                [6] => self.pass_over_text()?,
                _ => return Err(io::ErrorKind::InvalidData.into()),
            }
            if self.is_new && self.is_awaited {
                self.send_picture()?;
            }
        }
    }

    /// From the version to the name: no security, and whoever comes shares the screen with those who are there.
    fn greet(&mut self) -> io::Result<()> {
        self.end.write_all(b"RFB 003.008\n")?;
        self.read::<12>()?;
        self.end.write_all(&[1, 1])?;
        self.read::<1>()?;
        self.end.write_all(&[0; 4])?;
        self.read::<1>()?;
        let mut init = Vec::new();
        init.extend(WIDTH.to_be_bytes());
        init.extend(HEIGHT.to_be_bytes());
        // 32 bits a pixel of which 24 count, the lowest first, in true colour; up to 255 of each colour.
        init.extend([32, 24, 0, 1, 0, 255, 0, 255, 0, 255]);
        init.extend(SHIFTS);
        init.extend([0; 3]);
        init.extend(u32::try_from(self.name.len()).unwrap_or_default().to_be_bytes());
        init.extend(self.name.as_bytes());
        self.end.write_all(&init)
    }

    fn send_picture(&mut self) -> io::Result<()> {
        let mut update = vec![0, 0];
        update.extend(1_u16.to_be_bytes());
        for number in [0, 0, WIDTH, HEIGHT] {
            update.extend(number.to_be_bytes());
        }
        update.extend(0_u32.to_be_bytes());
        let pixel = |colour: [u8; 3]| {
            let parts = colour.iter().zip(self.shifts).map(|(part, shift)| u32::from(*part) << shift);
            parts.sum::<u32>().to_le_bytes()
        };
        let (ground, bar) = (pixel(GROUND), pixel(if self.is_alight { ALIGHT } else { BAR }));
        for y in 0..HEIGHT {
            for x in 0..WIDTH {
                let is_bar = (40..160).contains(&y) && (80..240).contains(&x) && (x - 80) % 60 < 40;
                update.extend(if is_bar { bar } else { ground });
            }
        }
        (self.is_new, self.is_awaited) = (false, false);
        self.end.write_all(&update)
    }

    fn pass_over_text(&mut self) -> io::Result<()> {
        let [_, _, _, len @ ..] = self.read::<7>()?;
        let len = u32::from_be_bytes(len);
        if len > TEXT_LEN_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        io::copy(&mut (&mut self.end).take(u64::from(len)), &mut io::sink()).map(drop)
    }

    fn read<const LEN: usize>(&mut self) -> io::Result<[u8; LEN]> {
        let mut bytes = [0; LEN];
        self.end.read_exact(&mut bytes)?;
        Ok(bytes)
    }
}
