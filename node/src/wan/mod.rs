//! The WAN emulator.
