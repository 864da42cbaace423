//! What people see, and what becomes of what they send.

mod assets;
mod fixture;
mod forms;
mod guard;
mod handover;
mod pages;
mod settings;
mod visit;
