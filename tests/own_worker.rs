//! A program that is its own compile worker. It has its own `main`, as the hook belongs at its top.

use isopod::{CompileWorker, ErrorKind, Host, ms};

fn main() {
    isopod::compile_worker();
    let component = wat::parse_str(
        r#"(component
            (core module $m (func (export "run") (result i32) i32.const 7))
            (core instance $i (instantiate $m))
            (func (export "run") (result u32) (canon lift (core func $i "run"))))"#,
    )
    .unwrap();
    let host = Host::new().unwrap();
    assert!(host.compile_worker().is_some(), "it is the default where `main` begins with it");
    let load = |host: &Host| host.function("stranger").component_bytes(component.clone()).load_blocking();
    assert_eq!(load(&host).unwrap().call_blocking::<u32>("run", ()).unwrap().value, 7);
    // That it was compiled there: with less time than a process takes to start, it is not.
    let hasty = CompileWorker::this_program().time(std::time::Duration::from_nanos(1));
    let error = load(&Host::builder().compile_worker(hasty).build().unwrap()).map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooComplex, "{error}");
    let usual = CompileWorker::this_program().time(ms(60_000));
    load(&Host::builder().compile_worker(usual).build().unwrap()).unwrap();
    println!("a program that is its own compile worker: ok");
}
