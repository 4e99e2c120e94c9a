//! The only `bindgen!` of this crate: isopod's own WIT, and that of WASI's drafts.

wasmtime::component::bindgen!({
    path: "wit",
    world: "isopod:function/function",
    imports: { default: async },
    exports: { default: async },
});

/// What guests import beyond WASI.
pub(crate) mod capabilities {
    /// What a guest holds of a secret: its index in the function's keyring.
    #[expect(unreachable_pub, reason = "bindgen re-exports it as if it were public")]
    pub struct SecretHandle(pub usize);

    wasmtime::component::bindgen!({
        path: "wit",
        world: "isopod:function/capabilities",
        imports: { default: async | trappable },
        with: { "isopod:secrets/secrets.secret": SecretHandle },
    });
}

/// `wasi:keyvalue`. The drafts differ in cursors, in numbers, and in compare-and-swap, and share what stands here.
#[expect(unreachable_pub, reason = "the generated code re-exports what it is given")]
pub(crate) mod keyvalue {
    use crate::store::Version;

    /// A bucket that a guest opened: which of the function's grants.
    pub struct Bucket(pub(crate) usize);

    /// A value that a guest wants to swap.
    pub struct Cas {
        pub(crate) bucket: usize,
        pub(crate) key: String,
        pub(crate) version: Option<Version>,
    }

    /// Why a guest's operation was not done.
    pub enum Failure {
        AccessDenied,
        Other(String),
        Store(std::io::Error),
        /// The call ends.
        Trap(wasmtime::Error),
    }

    pub(crate) mod draft {
        wasmtime::component::bindgen!({
            path: "wit/deps/keyvalue-0.2.0-draft",
            world: "wasi:keyvalue/imports",
            imports: { default: async | trappable },
            with: { "wasi:keyvalue/store.bucket": super::Bucket },
            trappable_error_type: { "wasi:keyvalue/store.error" => super::Failure },
        });
    }

    pub(crate) mod draft2 {
        wasmtime::component::bindgen!({
            path: "wit/deps/keyvalue-0.2.0-draft2",
            world: "wasi:keyvalue/imports",
            imports: { default: async | trappable },
            with: { "wasi:keyvalue/store.bucket": super::Bucket, "wasi:keyvalue/atomics.cas": super::Cas },
            trappable_error_type: { "wasi:keyvalue/store.error" => super::Failure },
        });
    }
}

/// What isopod and its interpreters of scripts say to each other.
pub(crate) mod script {
    wasmtime::component::bindgen!({
        path: "wit/script",
        world: "isopod:script/interpreter",
        imports: { default: trappable },
        exports: { default: async },
    });
}

/// What an interpreter does besides whose state is kept.
pub(crate) mod snapshots {
    wasmtime::component::bindgen!({
        path: "wit/script",
        world: "isopod:script/snapshots",
        exports: { default: async },
    });
}

/// What takes the types out of TypeScript.
#[cfg(feature = "typescript")]
pub(crate) mod typescript {
    wasmtime::component::bindgen!({
        path: "wit/script",
        world: "isopod:script/typescript",
        exports: { default: async },
    });
}
