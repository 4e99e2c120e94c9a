//! The only `bindgen!` of this crate: isopod's own WIT.

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
