//! canary's packet path. Built for the BPF target it is the kernel program;
//! on the host it is the same code, for tests of its pure parts.
#![no_std]
#![allow(
    clippy::multiple_unsafe_ops_per_block,
    reason = "the address of a map value's field, and the access to it, are one thing"
)]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]
#![cfg_attr(target_arch = "bpf", allow(internal_features, unstable_features))]

pub mod atomic;
pub mod counters;
pub mod directory;
pub mod flows;
pub mod follow;
pub mod fragments;
pub mod guard;
pub mod icmp;
pub mod layout;
pub mod maps;
pub mod open;
pub mod orders;
pub mod packet;
pub mod parse;
pub mod path;
pub mod pick;
pub mod plain;
pub mod refusal;
pub mod reply;
pub mod rewrite;
pub mod signals;
pub mod steer;
pub mod tcp;
pub mod unusual;
pub mod where_to;

/// What every object of programs has: an end for panics, which the verifier
/// shows cannot come; and the license. Helpers that only GPL-compatible
/// programs may call want the one, everybody may use the program by the other.
#[macro_export]
macro_rules! object {
    () => {
        #[panic_handler]
        fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
            loop {}
        }

        #[unsafe(link_section = "license")]
        #[unsafe(no_mangle)]
        static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
    };
}
