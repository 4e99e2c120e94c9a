//! The only `bindgen!` of this crate: isopod's own WIT.

wasmtime::component::bindgen!({
    path: "wit",
    world: "isopod:function/function",
    imports: { default: async },
    exports: { default: async },
});
