// Runs one test, which is a script. `script` runs a text: by `eval`, or as the engine runs scripts.
(host, script, { harness, test, waits }) => {
    const { show, over } = host();
    try {
        script(harness);
        script(test);
    } catch (thrown) {
        return show(thrown);
    }
    return waits ? over : "";
}
