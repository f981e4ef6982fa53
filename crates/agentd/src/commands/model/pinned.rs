//! Models that can be fetched by name: what each must be, and where it can be had.
//!
//! Invariant: a model is pinned by the SHA-256 of its whole file. Where it comes from is no part of what it is.

use aaos_core::quantity::Bytes;

/// One model that can be fetched by name.
#[derive(Debug)]
pub(super) struct Pinned {
    /// What it is called here.
    pub(super) name: &'static str,
    /// What its maker calls it.
    pub(super) title: &'static str,
    /// Of the whole file, hexadecimal.
    pub(super) sha256: &'static str,
    /// Size of the file.
    pub(super) bytes: Bytes,
    /// Under which licence its maker gives it away.
    pub(super) licence: &'static str,
    /// Where its maker offers it.
    pub(super) url: &'static str,
}

/// All of them, the better one first.
pub(super) const PINNED: [Pinned; 2] = [
    Pinned {
        name: "qwen2.5-coder-1.5b",
        title: "Qwen2.5-Coder-1.5B-Instruct, Q4_K_M",
        sha256: "cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
        bytes: Bytes(1_117_320_768),
        licence: "Apache-2.0",
        url: "https://huggingface.co/Qwen/Qwen2.5-Coder-1.5B-Instruct-GGUF/resolve/main/\
              qwen2.5-coder-1.5b-instruct-q4_k_m.gguf",
    },
    Pinned {
        name: "qwen2.5-coder-0.5b",
        title: "Qwen2.5-Coder-0.5B-Instruct, Q4_K_M",
        sha256: "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
        bytes: Bytes(491_400_064),
        licence: "Apache-2.0",
        url: "https://huggingface.co/Qwen/Qwen2.5-Coder-0.5B-Instruct-GGUF/resolve/main/\
              qwen2.5-coder-0.5b-instruct-q4_k_m.gguf",
    },
];

#[cfg(test)]
mod tests {
    use aaos_core::limits::MAX_WEIGHTS_BYTES;
    use aaos_core::tool::host_and_port;

    use super::PINNED;
    use crate::settings::local::local_name;

    #[test]
    fn what_is_pinned_can_be_asked_for() {
        for pinned in PINNED {
            assert!(local_name(pinned.name).is_ok(), "{}", pinned.name);
            assert!(super::super::pull::is_hash(pinned.sha256), "{}", pinned.name);
            assert!(pinned.bytes.0 <= MAX_WEIGHTS_BYTES, "{}", pinned.name);
            let (host, port) = host_and_port(pinned.url).expect("a URL");
            assert_eq!((host.as_str(), port), ("huggingface.co", 443), "{}", pinned.name);
        }
    }
}
