// The interpreter of scripts: QuickJS-ng, started once and frozen, with isopod's interface around it. An instance compiles
// one script, or loads one and calls it. What came from the host is not freed: the instance ends with its call.
//
// QuickJS is included, not linked, as this reaches into it: which exports a module has, whether `eval` is there, and the
// seeds of what looks random.

#include "dtoa.c"
#include "libregexp.c"
#include "libunicode.c"
#include "quickjs.c"

#include "javascript.h"
#include "prelude.h"

// What a failure says at most, in bytes; the host cuts it again.
#define MAX_TEXT 4096
// Where recursion of a script ends as an error of its own: before most of it comes to the end of the machine's stack,
// which grows three times as fast as this one, and ends the call.
#define STACK (160 * 1024)
// Bytes that a call takes before its garbage is collected for the first time: few beside the least that a call may have.
#define GARBAGE (256 * 1024)
// Bytes: no room that starting leaves between what lives is larger.
#define LARGEST_GAP (32 * 1024)
// The name of a script in backtraces.
#define NAME "script"

// Whether there is a host that answers: not while it is started, to be frozen.
static bool live;

static JSRuntime *rt;
static JSContext *ctx;
// The default export of the script.
static JSValue entry;
// What `prelude.js` gives: the context object, and how a value is printed.
static JSValue call_context;

// WASI, as far as libc wants it: the time comes from the host, and there are no files.

int32_t __imported_wasi_snapshot_preview1_clock_time_get(int32_t id, int64_t precision, int32_t out) {
    *(uint64_t *)out = !live ? 0 : id == 0 ? isopod_script_host_now() : isopod_script_host_monotonic();
    return 0;
}
int32_t __imported_wasi_snapshot_preview1_fd_close(int32_t fd) { return 8; }
int32_t __imported_wasi_snapshot_preview1_fd_fdstat_get(int32_t fd, int32_t out) { return 8; }
int32_t __imported_wasi_snapshot_preview1_fd_seek(int32_t fd, int64_t by, int32_t whence, int32_t out) { return 8; }
int32_t __imported_wasi_snapshot_preview1_fd_write(int32_t fd, int32_t from, int32_t count, int32_t out) { return 8; }

// Failures.

typedef javascript_failure_t failure_t;

// QuickJS writes half of a pair of surrogates as if it were a character, which is no UTF-8. In its place goes the mark of
// Unicode for what cannot be read, which is as long.
static void mend(char *text, size_t len) {
    for (uint8_t *at = (uint8_t *)text, *end = at + len; at + 2 < end; at++)
        if (at[0] == 0xed && at[1] >= 0xa0) memcpy(at, "\xef\xbf\xbd", 3);
}

static void set_text(javascript_string_t *to, const char *text, size_t len) {
    if (len > MAX_TEXT) {
        len = MAX_TEXT;
        while (len > 0 && ((uint8_t)text[len] & 0xc0) == 0x80) len--;
    }
    to->ptr = malloc(len ? len : 1);
    if (!to->ptr) len = 0;
    memcpy(to->ptr, text, len);
    mend((char *)to->ptr, len);
    to->len = len;
}

static void fail(failure_t *to, javascript_cause_t cause, const char *name, const char *message) {
    memset(to, 0, sizeof *to);
    to->cause = cause;
    set_text(&to->name, name, strlen(name));
    set_text(&to->message, message, strlen(message));
    set_text(&to->stack, "", 0);
}

// A property as text, if that can be had without trouble.
static void get_text(javascript_string_t *to, JSValueConst of, const char *property) {
    JSValue value = JS_GetPropertyStr(ctx, of, property);
    size_t len = 0;
    const char *text = JS_IsUndefined(value) || JS_IsException(value) ? NULL : JS_ToCStringLen(ctx, &len, value);
    if (!text) JS_FreeValue(ctx, JS_GetException(ctx));
    set_text(to, text ? text : "", text ? len : 0);
}

// The first place of the script in a backtrace: `script:3:5`.
static void find_place(failure_t *to) {
    const char *at = (const char *)to->stack.ptr, *end = at + to->stack.len;
    for (; at + sizeof NAME < end; at++) {
        if (memcmp(at, NAME ":", sizeof NAME)) continue;
        uint64_t numbers[2] = {0, 0};
        at += sizeof NAME;
        for (int i = 0; i < 2; i++) {
            while (at < end && *at >= '0' && *at <= '9' && numbers[i] < 100000000) numbers[i] = numbers[i] * 10 + *at++ - '0';
            if (at < end && *at == ':') at++;
        }
        to->line = numbers[0];
        to->column = numbers[1];
        return;
    }
}

static bool is(javascript_string_t *text, const char *other) {
    return text->len == strlen(other) && !memcmp(text->ptr, other, text->len);
}

// What was thrown.
static void tell(failure_t *to, JSValue thrown, javascript_cause_t cause) {
    memset(to, 0, sizeof *to);
    to->cause = cause;
    if (JS_IsObject(thrown)) {
        get_text(&to->name, thrown, "name");
        get_text(&to->message, thrown, "message");
        get_text(&to->stack, thrown, "stack");
        find_place(to);
        if (JS_IsError(thrown)) {
            if (is(&to->name, "InternalError") && is(&to->message, "out of memory")) {
                to->cause = JAVASCRIPT_CAUSE_OUT_OF_MEMORY;
            }
            return;
        }
    } else {
        set_text(&to->name, "", 0);
        set_text(&to->stack, "", 0);
    }
    if (!to->message.len) {
        size_t len = 0;
        const char *text = JS_ToCStringLen(ctx, &len, thrown);
        if (!text) JS_FreeValue(ctx, JS_GetException(ctx));
        set_text(&to->message, text ? text : "it cannot be shown", text ? len : 18);
    }
}

static bool threw(failure_t *to, javascript_cause_t cause) {
    tell(to, JS_GetException(ctx), cause);
    return false;
}

// Where the stack ends for scripts. QuickJS sets no limit for WASI, as it does not know the stack of the machine.
static void begin(void) {
    rt->stack_top = js_get_stack_pointer();
    rt->stack_limit = rt->stack_top - STACK;
}

// What is under way at the host, and who is told.

static struct task {
    uint32_t id;
    JSValue done;
} *tasks;
static size_t task_count, task_room;

// Copies of what a script gives, to be freed with the task. What is no text is made one.
static bool take_text(JSValueConst from, javascript_string_t *to) {
    size_t len;
    const char *text = JS_ToCStringLen(ctx, &len, from);
    if (!text) return false;
    if (len && !(to->ptr = malloc(len))) {
        JS_FreeCString(ctx, text);
        JS_ThrowOutOfMemory(ctx);
        return false;
    }
    memcpy(to->ptr, text, len);
    mend((char *)to->ptr, len);
    to->len = len;
    JS_FreeCString(ctx, text);
    return true;
}

static bool take_optional(JSValueConst from, javascript_option_string_t *to) {
    to->is_some = !JS_IsUndefined(from) && !JS_IsNull(from);
    return !to->is_some || take_text(from, &to->val);
}

// The bytes of a Uint8Array, where they are. None has two reasons: there are none, or it throws, as for a detached one.
static bool look_at_bytes(JSValueConst from, uint8_t **bytes, size_t *len) {
    *bytes = JS_GetUint8Array(ctx, len, from);
    return *bytes || !JS_HasException(ctx);
}

static bool take_bytes(JSValueConst from, javascript_list_u8_t *to) {
    size_t len;
    uint8_t *bytes;
    if (!look_at_bytes(from, &bytes, &len)) return false;
    if (len && !(to->ptr = malloc(len))) {
        JS_ThrowOutOfMemory(ctx);
        return false;
    }
    memcpy(to->ptr, bytes, len);
    to->len = len;
    return true;
}

// Names and values of headers in turn.
static bool take_headers(JSValueConst from, javascript_list_tuple2_string_string_t *to) {
    int64_t len;
    if (JS_GetLength(ctx, from, &len)) return false;
    if (len < 2) return true;
    // The host takes fewer; and what a script says that a length is need not be one.
    if (len > 65536) {
        JS_ThrowRangeError(ctx, "there are too many headers");
        return false;
    }
    if (!(to->ptr = calloc(len / 2, sizeof *to->ptr))) {
        JS_ThrowOutOfMemory(ctx);
        return false;
    }
    for (int64_t i = 0; i + 1 < len; i += 2) {
        to->len = i / 2 + 1;
        JSValue name = JS_GetPropertyUint32(ctx, from, i), value = JS_GetPropertyUint32(ctx, from, i + 1);
        bool taken = take_text(name, &to->ptr[i / 2].f0) && take_text(value, &to->ptr[i / 2].f1);
        JS_FreeValue(ctx, name);
        JS_FreeValue(ctx, value);
        if (!taken) return false;
    }
    return true;
}

// What it is that is to be begun; `given` is as `prelude.js` has it.
static bool take_task(int32_t kind, JSValueConst *given, isopod_script_tasks_task_t *task) {
    task->tag = kind;
    switch (kind) {
        case ISOPOD_SCRIPT_TASKS_TASK_SLEEP: {
            double ms;
            if (JS_ToFloat64(ctx, &ms, given[0])) return false;
            task->val.sleep = !(ms > 0) ? 0 : ms > 1e12 ? 1e18 : ms * 1e6;
            return true;
        }
        case ISOPOD_SCRIPT_TASKS_TASK_FETCH: {
            isopod_script_tasks_request_t *request = &task->val.fetch;
            request->body.is_some = !JS_IsNull(given[3]);
            return take_text(given[0], &request->method) && take_text(given[1], &request->url) &&
                   take_headers(given[2], &request->headers) &&
                   (!request->body.is_some || take_bytes(given[3], &request->body.val));
        }
        case ISOPOD_SCRIPT_TASKS_TASK_READ: return !JS_ToUint32(ctx, &task->val.read, given[0]);
        case ISOPOD_SCRIPT_TASKS_TASK_GET:
            return take_optional(given[0], &task->val.get.bucket) && take_text(given[1], &task->val.get.key);
        case ISOPOD_SCRIPT_TASKS_TASK_SET:
            return take_optional(given[0], &task->val.set.f0.bucket) && take_text(given[1], &task->val.set.f0.key) &&
                   take_bytes(given[2], &task->val.set.f1);
        case ISOPOD_SCRIPT_TASKS_TASK_DELETE:
            return take_optional(given[0], &task->val.delete_.bucket) && take_text(given[1], &task->val.delete_.key);
        case ISOPOD_SCRIPT_TASKS_TASK_INCREMENT:
            return take_optional(given[0], &task->val.increment.f0.bucket) &&
                   take_text(given[1], &task->val.increment.f0.key) &&
                   !JS_ToInt64(ctx, &task->val.increment.f1, given[2]);
        case ISOPOD_SCRIPT_TASKS_TASK_SCAN:
            return take_optional(given[0], &task->val.scan.bucket) && take_optional(given[1], &task->val.scan.prefix) &&
                   take_optional(given[2], &task->val.scan.after);
        case ISOPOD_SCRIPT_TASKS_TASK_EQUALS:
            return take_text(given[0], &task->val.equals.f0) && take_bytes(given[1], &task->val.equals.f1);
        case ISOPOD_SCRIPT_TASKS_TASK_REVEAL: return take_text(given[0], &task->val.reveal);
        case ISOPOD_SCRIPT_TASKS_TASK_CALL:
            return take_text(given[0], &task->val.call.function) && take_text(given[1], &task->val.call.export_) &&
                   take_text(given[2], &task->val.call.arguments);
    }
    JS_ThrowInternalError(ctx, "there is no such task");
    return false;
}

static bool has_room(void) {
    if (task_count < task_room) return true;
    size_t room = task_room ? task_room * 2 : 16;
    struct task *more = realloc(tasks, room * sizeof *tasks);
    if (!more) {
        JS_ThrowOutOfMemory(ctx);
        return false;
    }
    tasks = more;
    task_room = room;
    return true;
}

// `begin(kind, done, ...)`: `done` is called with what came of it, or with a name and a message.
static JSValue js_begin(JSContext *ctx, JSValueConst this, int argc, JSValueConst *argv) {
    int32_t kind;
    if (JS_ToInt32(ctx, &kind, argv[0])) return JS_EXCEPTION;
    isopod_script_tasks_task_t task;
    memset(&task, 0, sizeof task);
    uint32_t id;
    // It may run code of the script, which begins others: there is room for one more only after it.
    bool taken = take_task(kind, argv + 2, &task) && has_room();
    bool begun = taken && isopod_script_tasks_begin(&task, &id);
    isopod_script_tasks_task_free(&task);
    if (!taken) return JS_EXCEPTION;
    if (!begun) return JS_ThrowRangeError(ctx, "too much is under way at once");
    tasks[task_count++] = (struct task){id, JS_DupValue(ctx, argv[1])};
    return JS_NewUint32(ctx, id);
}

static JSValue text_value(const javascript_string_t *text) {
    return JS_NewStringLen(ctx, (const char *)text->ptr, text->len);
}

static JSValue texts_value(const javascript_list_string_t *texts) {
    JSValue array = JS_NewArray(ctx);
    for (size_t i = 0; i < texts->len; i++) JS_SetPropertyUint32(ctx, array, i, text_value(&texts->ptr[i]));
    return array;
}

// What came of a task, as arguments of its `done`.
static int outcome_values(isopod_script_tasks_outcome_t *outcome, JSValue *values) {
    switch (outcome->tag) {
        case ISOPOD_SCRIPT_TASKS_OUTCOME_FAILED:
            values[0] = JS_NULL;
            values[1] = text_value(&outcome->val.failed.name);
            values[2] = text_value(&outcome->val.failed.message);
            return 3;
        case ISOPOD_SCRIPT_TASKS_OUTCOME_RESPONSE: {
            isopod_script_tasks_response_t *response = &outcome->val.response;
            JSValue headers = JS_NewArray(ctx);
            for (size_t i = 0; i < response->headers.len; i++) {
                JS_SetPropertyUint32(ctx, headers, 2 * i, text_value(&response->headers.ptr[i].f0));
                JS_SetPropertyUint32(ctx, headers, 2 * i + 1, text_value(&response->headers.ptr[i].f1));
            }
            values[0] = JS_NewObject(ctx);
            JS_SetPropertyStr(ctx, values[0], "status", JS_NewInt32(ctx, response->status));
            JS_SetPropertyStr(ctx, values[0], "headers", headers);
            JS_SetPropertyStr(ctx, values[0], "body", JS_NewUint32(ctx, response->body));
            return 1;
        }
        case ISOPOD_SCRIPT_TASKS_OUTCOME_BYTES:
            values[0] = JS_NewUint8ArrayCopy(ctx, outcome->val.bytes.ptr, outcome->val.bytes.len);
            return 1;
        case ISOPOD_SCRIPT_TASKS_OUTCOME_NUMBER: values[0] = JS_NewInt64(ctx, outcome->val.number); return 1;
        case ISOPOD_SCRIPT_TASKS_OUTCOME_TRUTH: values[0] = JS_NewBool(ctx, outcome->val.truth); return 1;
        case ISOPOD_SCRIPT_TASKS_OUTCOME_PAGE:
            values[0] = JS_NewObject(ctx);
            JS_SetPropertyStr(ctx, values[0], "keys", texts_value(&outcome->val.page.keys));
            JS_SetPropertyStr(ctx, values[0], "more", JS_NewBool(ctx, outcome->val.page.more));
            return 1;
        case ISOPOD_SCRIPT_TASKS_OUTCOME_JSON: values[0] = text_value(&outcome->val.json); return 1;
        default: values[0] = JS_NULL; return 1;
    }
}

static JSValue js_cancel(JSContext *ctx, JSValueConst this, int argc, JSValueConst *argv) {
    uint32_t id;
    if (JS_ToUint32(ctx, &id, argv[0])) return JS_EXCEPTION;
    isopod_script_tasks_cancel(id);
    for (size_t i = 0; i < task_count; i++) {
        if (tasks[i].id != id) continue;
        JS_FreeValue(ctx, tasks[i].done);
        tasks[i] = tasks[--task_count];
        break;
    }
    return JS_UNDEFINED;
}

static JSValue js_discard(JSContext *ctx, JSValueConst this, int argc, JSValueConst *argv) {
    uint32_t body;
    if (JS_ToUint32(ctx, &body, argv[0])) return JS_EXCEPTION;
    isopod_script_tasks_discard(body);
    return JS_UNDEFINED;
}

// Runs what is ready, and waits for what is not, until the promise is settled.
static bool settle(JSValue promise, failure_t *to) {
    for (;;) {
        JSContext *of;
        int ran;
        while ((ran = JS_ExecutePendingJob(rt, &of)) > 0) {
            if (JS_PromiseState(ctx, promise) != JS_PROMISE_PENDING) return true;
        }
        if (ran < 0) return threw(to, JAVASCRIPT_CAUSE_THROWN);
        if (JS_PromiseState(ctx, promise) != JS_PROMISE_PENDING) return true;
        isopod_script_tasks_tuple2_u32_outcome_t over;
        if (!isopod_script_tasks_wait(&over)) {
            fail(to, JAVASCRIPT_CAUSE_STUCK, "Error", "it awaits a promise that nothing can settle any more");
            return false;
        }
        for (size_t i = 0; i < task_count; i++) {
            if (tasks[i].id != over.f0) continue;
            JSValue done = tasks[i].done, values[3];
            tasks[i] = tasks[--task_count];
            int count = outcome_values(&over.f1, values);
            isopod_script_tasks_outcome_free(&over.f1);
            for (int at = 0; at < count; at++)
                if (JS_IsException(values[at])) return threw(to, JAVASCRIPT_CAUSE_OUT_OF_MEMORY);
            JSValue gave = JS_Call(ctx, done, JS_UNDEFINED, count, values);
            if (JS_IsException(gave)) return threw(to, JAVASCRIPT_CAUSE_THROWN);
            while (count) JS_FreeValue(ctx, values[--count]);
            JS_FreeValue(ctx, gave);
            JS_FreeValue(ctx, done);
            break;
        }
    }
}

// The value of a promise, or of what is none.
static bool await(JSValue *value, failure_t *to) {
    if (!JS_IsPromise(*value)) return true;
    JSValue promise = *value;
    if (!settle(promise, to)) return false;
    *value = JS_PromiseResult(ctx, promise);
    if (JS_PromiseState(ctx, promise) != JS_PROMISE_REJECTED) return true;
    tell(to, *value, JAVASCRIPT_CAUSE_THROWN);
    return false;
}

// What `prelude.js` is made of.

static JSValue js_log(JSContext *ctx, JSValueConst this, int argc, JSValueConst *argv) {
    int32_t level;
    size_t len;
    if (JS_ToInt32(ctx, &level, argv[0])) return JS_EXCEPTION;
    const char *text = JS_ToCStringLen(ctx, &len, argv[1]);
    if (!text) return JS_EXCEPTION;
    mend((char *)text, len);
    javascript_string_t message = {(uint8_t *)text, len};
    isopod_script_host_log(level, &message);
    JS_FreeCString(ctx, text);
    return JS_UNDEFINED;
}

static JSValue js_random(JSContext *ctx, JSValueConst this, int argc, JSValueConst *argv) {
    size_t offset, len, per;
    JSValue buffer = JS_GetTypedArrayBuffer(ctx, argv[0], &offset, &len, &per);
    if (JS_IsException(buffer)) return JS_EXCEPTION;
    size_t all;
    uint8_t *bytes = JS_GetArrayBuffer(ctx, &all, buffer);
    JS_FreeValue(ctx, buffer);
    if (!bytes || offset + len > all) return JS_ThrowTypeError(ctx, "the array is detached");
    javascript_list_u8_t drawn;
    isopod_script_host_random(len, &drawn);
    if (drawn.len == len) memcpy(bytes + offset, drawn.ptr, len);
    free(drawn.ptr);
    return JS_UNDEFINED;
}

// `Math.random`, where its state is drawn first if there is none.
static JSValue js_math_random_seeded(JSContext *ctx, JSValueConst this, int argc, JSValueConst *argv) {
    if (!ctx->random_state) {
        javascript_list_u8_t drawn;
        isopod_script_host_random(sizeof ctx->random_state, &drawn);
        if (drawn.len == sizeof ctx->random_state) memcpy(&ctx->random_state, drawn.ptr, drawn.len);
        free(drawn.ptr);
        if (!ctx->random_state) ctx->random_state = 1;
    }
    return js_math_random(ctx, this, argc, argv);
}

static JSValue js_context(JSContext *ctx, JSValueConst this, int argc, JSValueConst *argv) {
    isopod_script_host_call_t call;
    isopod_script_host_context(&call);
    JSValue object = JS_NewObject(ctx);
    JS_SetPropertyStr(ctx, object, "function", JS_NewStringLen(ctx, (char *)call.function.ptr, call.function.len));
    if (call.tenant.is_some) {
        JSValue tenant = JS_NewStringLen(ctx, (char *)call.tenant.val.ptr, call.tenant.val.len);
        JS_SetPropertyStr(ctx, object, "tenant", tenant);
    }
    if (call.id.is_some) JS_SetPropertyStr(ctx, object, "callId", JS_NewFloat64(ctx, call.id.val));
    return object;
}

// A text by its name, or null.
static JSValue look_up(JSValueConst name, bool (*find)(javascript_string_t *, javascript_string_t *)) {
    javascript_string_t key = {0}, found;
    if (!take_text(name, &key)) return JS_EXCEPTION;
    bool known = find(&key, &found);
    javascript_string_free(&key);
    if (!known) return JS_NULL;
    JSValue text = text_value(&found);
    javascript_string_free(&found);
    return text;
}

static JSValue js_config(JSContext *ctx, JSValueConst this, int argc, JSValueConst *argv) {
    return look_up(argv[0], isopod_script_host_config);
}

static JSValue js_secret(JSContext *ctx, JSValueConst this, int argc, JSValueConst *argv) {
    return look_up(argv[0], isopod_script_host_secret);
}

static JSValue parts_value(bool is_url, javascript_list_string_t *parts) {
    if (!is_url) return JS_NULL;
    JSValue array = texts_value(parts);
    javascript_list_string_free(parts);
    return array;
}

static JSValue js_url(JSContext *ctx, JSValueConst this, int argc, JSValueConst *argv) {
    javascript_string_t text = {0};
    javascript_option_string_t base = {0};
    JSValue url = JS_EXCEPTION;
    if (take_text(argv[0], &text) && take_optional(argv[1], &base)) {
        javascript_list_string_t parts;
        url = parts_value(isopod_script_host_url(&text, base.is_some ? &base.val : NULL, &parts), &parts);
    }
    javascript_string_free(&text);
    javascript_option_string_free(&base);
    return url;
}

static JSValue js_with_part(JSContext *ctx, JSValueConst this, int argc, JSValueConst *argv) {
    javascript_string_t texts[3] = {{0}};
    JSValue url = JS_EXCEPTION;
    if (take_text(argv[0], &texts[0]) && take_text(argv[1], &texts[1]) && take_text(argv[2], &texts[2])) {
        javascript_list_string_t parts;
        url = parts_value(isopod_script_host_with_part(&texts[0], &texts[1], &texts[2], &parts), &parts);
    }
    for (int i = 0; i < 3; i++) javascript_string_free(&texts[i]);
    return url;
}

static JSValue js_encode(JSContext *ctx, JSValueConst this, int argc, JSValueConst *argv) {
    size_t len;
    const char *text = JS_ToCStringLen(ctx, &len, argv[0]);
    if (!text) return JS_EXCEPTION;
    mend((char *)text, len);
    JSValue bytes = JS_NewUint8ArrayCopy(ctx, (const uint8_t *)text, len);
    JS_FreeCString(ctx, text);
    return bytes;
}

static bool is_utf8(const uint8_t *at, size_t len) {
    const uint8_t *end = at + len;
    while (at < end) {
        uint8_t first = *at++;
        if (first < 0x80) continue;
        int more = first >= 0xf0 ? 3 : first >= 0xe0 ? 2 : 1;
        if (first < 0xc2 || first > 0xf4 || end - at < more) return false;
        uint8_t low = first == 0xe0 ? 0xa0 : first == 0xf0 ? 0x90 : 0x80;
        uint8_t high = first == 0xed ? 0x9f : first == 0xf4 ? 0x8f : 0xbf;
        if (*at < low || *at > high) return false;
        for (int i = 1; i < more; i++)
            if ((at[i] & 0xc0) != 0x80) return false;
        at += more;
    }
    return true;
}

// The bytes of a buffer or a view of one, from `offset` on.
static JSValue js_decode(JSContext *ctx, JSValueConst this, int argc, JSValueConst *argv) {
    size_t len;
    uint8_t *bytes;
    if (!look_at_bytes(argv[0], &bytes, &len)) return JS_EXCEPTION;
    if (JS_ToBool(ctx, argv[1]) && !is_utf8(bytes, len)) return JS_ThrowTypeError(ctx, "the bytes are not UTF-8");
    return JS_NewStringLen(ctx, (const char *)bytes, len);
}

static JSValue js_clone(JSContext *ctx, JSValueConst this, int argc, JSValueConst *argv) {
    size_t size;
    uint8_t *bytes = JS_WriteObject(ctx, &size, argv[0], JS_WRITE_OBJ_REFERENCE);
    if (!bytes) return JS_EXCEPTION;
    JSValue clone = JS_ReadObject(ctx, bytes, size, JS_READ_OBJ_REFERENCE);
    js_free(ctx, bytes);
    return clone;
}

static const JSCFunctionListEntry NATIVE[] = {
    JS_CFUNC_DEF("log", 2, js_log),
    JS_CFUNC_DEF("begin", 6, js_begin),
    JS_CFUNC_DEF("cancel", 1, js_cancel),
    JS_CFUNC_DEF("discard", 1, js_discard),
    JS_CFUNC_DEF("random", 1, js_random),
    JS_CFUNC_DEF("context", 0, js_context),
    JS_CFUNC_DEF("config", 1, js_config),
    JS_CFUNC_DEF("secret", 1, js_secret),
    JS_CFUNC_DEF("url", 2, js_url),
    JS_CFUNC_DEF("withPart", 3, js_with_part),
    JS_CFUNC_DEF("encode", 1, js_encode),
    JS_CFUNC_DEF("decode", 2, js_decode),
    JS_CFUNC_DEF("clone", 1, js_clone),
};

// Starting.

// Takes all room between what lives, for good: what calls allocate then lies side by side, at the end, on few pages, each of
// which has to be put back after the call.
static void fill_gaps(void) {
    char *end = malloc(LARGEST_GAP);
    if (!end) abort();
    free(end);
    for (size_t size = LARGEST_GAP; size >= 8; size -= 8) {
        char *gap;
        while ((gap = malloc(size)) && gap < end) continue;
        free(gap);
    }
}

static JSModuleDef *no_module(JSContext *ctx, const char *name, void *opaque, JSValueConst attributes) {
    JS_ThrowSyntaxError(ctx, "a script is one file and imports no other; what it may use is there without an import");
    return NULL;
}

__attribute__((export_name("wizer-initialize"))) void start(void) {
    rt = JS_NewRuntime();
    begin();
    ctx = JS_NewContextRaw(rt);
    JS_AddIntrinsicBaseObjects(ctx);
    JS_AddIntrinsicDate(ctx);
    JS_AddIntrinsicRegExp(ctx);
    JS_AddIntrinsicJSON(ctx);
    JS_AddIntrinsicProxy(ctx);
    JS_AddIntrinsicMapSet(ctx);
    JS_AddIntrinsicTypedArrays(ctx);
    JS_AddIntrinsicPromise(ctx);
    JS_AddIntrinsicWeakRef(ctx);
    JS_AddIntrinsicDOMException(ctx);
    JS_AddIntrinsicAToB(ctx);
    JS_SetModuleLoaderFunc2(rt, NULL, no_module, NULL, NULL);
    JS_AddIntrinsicEval(ctx);
    JSValue math = JS_GetPropertyStr(ctx, ctx->global_obj, "Math");
    JSValue random = JS_NewCFunction(ctx, js_math_random_seeded, "random", 0);
    JS_DefinePropertyValueStr(ctx, math, "random", random, JS_PROP_WRITABLE | JS_PROP_CONFIGURABLE);
    JS_FreeValue(ctx, math);
    JSValue native = JS_NewObject(ctx);
    JS_SetPropertyFunctionList(ctx, native, NATIVE, countof(NATIVE));
    JSValue prelude = JS_Eval(ctx, PRELUDE, sizeof PRELUDE - 1, "isopod", JS_EVAL_TYPE_GLOBAL);
    call_context = JS_Call(ctx, prelude, JS_UNDEFINED, 1, &native);
    if (JS_IsException(call_context)) abort();
    // Jobs of the prelude, of which there are none, and what it left.
    JS_RunGC(rt);
    ctx->eval_internal = NULL;
    ctx->random_state = 0;
    // Tables with room for what scripts add: one that grows touches all that is in it, in each call.
    if (JS_ResizeAtomHash(rt, 2048) || resize_shape_hash(rt, 9)) abort();
    fill_gaps();
    JSAtom spare[512];
    for (int i = 0; i < 512; i++) {
        char name[16];
        snprintf(name, sizeof name, "spare %d", i);
        spare[i] = JS_NewAtom(ctx, name);
    }
    for (int i = 511; i >= 0; i--) JS_FreeAtom(ctx, spare[i]);
    // Most calls end before there is garbage worth looking for.
    JS_SetGCThreshold(rt, rt->malloc_state.malloc_size + GARBAGE);
    live = true;
}

// Exports.

// Room for what the host passes, in place of the bindings' own: with a zero behind it, as QuickJS reads one byte beyond the
// end of a text.
__attribute__((export_name("cabi_realloc"))) void *cabi_realloc(void *old, size_t had, size_t align, size_t size) {
    uint8_t *room = realloc(old, size + 1);
    if (!room) abort();
    room[size] = 0;
    return room;
}

bool exports_javascript_compile(javascript_string_t *source, javascript_list_u8_t *ret, failure_t *err) {
    begin();
    JS_AddIntrinsicEval(ctx);
    JSValue module = JS_Eval(ctx, (char *)source->ptr, source->len, NAME, JS_EVAL_TYPE_MODULE | JS_EVAL_FLAG_COMPILE_ONLY);
    if (JS_IsException(module)) return threw(err, JAVASCRIPT_CAUSE_SYNTAX);
    JSModuleDef *def = JS_VALUE_GET_PTR(module);
    bool found = false;
    for (int i = 0; i < def->export_entries_count; i++) found |= def->export_entries[i].export_name == JS_ATOM_default;
    if (!found) {
        fail(err, JAVASCRIPT_CAUSE_NO_FUNCTION, "", "it has no default export");
        return false;
    }
    size_t size;
    uint8_t *code = JS_WriteObject(ctx, &size, module, JS_WRITE_OBJ_BYTECODE | JS_WRITE_OBJ_STRIP_SOURCE);
    if (!code) return threw(err, JAVASCRIPT_CAUSE_SYNTAX);
    *ret = (javascript_list_u8_t){code, size};
    return true;
}

bool exports_javascript_load(javascript_list_u8_t *code, javascript_options_t options, uint64_t seed, uint32_t salt,
                              failure_t *err) {
    begin();
    ctx->random_state = seed ? seed : 1;
    ctx->hash_seed = salt;
    if (options & JAVASCRIPT_OPTIONS_EVAL) JS_AddIntrinsicEval(ctx);
    JSValue module = JS_ReadObject(ctx, code->ptr, code->len, JS_READ_OBJ_BYTECODE);
    if (JS_IsException(module) || JS_ResolveModule(ctx, module) < 0) return threw(err, JAVASCRIPT_CAUSE_SYNTAX);
    JSModuleDef *def = JS_VALUE_GET_PTR(module);
    JSValue done = JS_EvalFunction(ctx, module);
    if (JS_IsException(done)) return threw(err, JAVASCRIPT_CAUSE_THROWN);
    if (!await(&done, err)) return false;
    JSValue namespace = JS_GetModuleNamespace(ctx, def);
    if (JS_IsException(namespace)) return threw(err, JAVASCRIPT_CAUSE_THROWN);
    entry = JS_GetProperty(ctx, namespace, JS_ATOM_default);
    if (JS_IsException(entry)) return threw(err, JAVASCRIPT_CAUSE_THROWN);
    if (!JS_IsFunction(ctx, entry)) {
        fail(err, JAVASCRIPT_CAUSE_NO_FUNCTION, "", "its default export is no function");
        return false;
    }
    return true;
}

static bool no_json(failure_t *to, const char *message) {
    fail(to, JAVASCRIPT_CAUSE_NO_JSON, "TypeError", message);
    return false;
}

bool exports_javascript_run(javascript_value_t *input, javascript_value_t *ret, failure_t *err) {
    begin();
    javascript_list_u8_t *given = &input->val.json;
    JSValue argument;
    if (input->tag == JAVASCRIPT_VALUE_JSON) {
        argument = JS_ParseJSON(ctx, (char *)given->ptr, given->len, "input");
    } else {
        argument = JS_NewUint8ArrayCopy(ctx, given->ptr, given->len);
    }
    if (JS_IsException(argument)) return threw(err, JAVASCRIPT_CAUSE_THROWN);
    JSValueConst arguments[] = {argument, call_context};
    JSValue result = JS_Call(ctx, entry, JS_UNDEFINED, 2, arguments);
    if (JS_IsException(result)) return threw(err, JAVASCRIPT_CAUSE_THROWN);
    if (!await(&result, err)) return false;
    if (JS_GetTypedArrayType(result) == JS_TYPED_ARRAY_UINT8) {
        size_t len;
        uint8_t *bytes;
        if (!look_at_bytes(result, &bytes, &len)) return threw(err, JAVASCRIPT_CAUSE_THROWN);
        ret->tag = JAVASCRIPT_VALUE_BYTES;
        ret->val.bytes.ptr = malloc(len ? len : 1);
        if (!ret->val.bytes.ptr) {
            fail(err, JAVASCRIPT_CAUSE_OUT_OF_MEMORY, "InternalError", "out of memory");
            return false;
        }
        memcpy(ret->val.bytes.ptr, bytes, len);
        ret->val.bytes.len = len;
        return true;
    }
    JSValue json = JS_JSONStringify(ctx, result, JS_UNDEFINED, JS_UNDEFINED);
    if (JS_IsException(json)) return threw(err, JAVASCRIPT_CAUSE_NO_JSON);
    if (JS_IsUndefined(result)) return no_json(err, "it gave nothing: `undefined`");
    if (JS_IsUndefined(json)) return no_json(err, "it gave a function or a symbol");
    size_t len;
    const char *text = JS_ToCStringLen(ctx, &len, json);
    if (!text) return threw(err, JAVASCRIPT_CAUSE_OUT_OF_MEMORY);
    ret->tag = JAVASCRIPT_VALUE_JSON;
    ret->val.json = (javascript_list_u8_t){(uint8_t *)text, len};
    return true;
}

// Its memory but for the stack, which lies below all else and which nothing is on between calls. It is read where it is.
bool exports_javascript_image(javascript_tuple2_u32_list_u8_t *ret) {
    extern char __global_base;
    if (task_count) return false;
    // Each call goes on with random numbers of its own. The seed of hashes stays: maps keep the hashes of their keys.
    ctx->random_state = 0;
    uint32_t start = (uint32_t)&__global_base;
    *ret = (javascript_tuple2_u32_list_u8_t){start, {(uint8_t *)start, __builtin_wasm_memory_size(0) * 65536 - start}};
    return true;
}

// What the bindings would free after a call: here nothing is freed, and what was QuickJS's was never malloc's.
void __wasm_export_exports_javascript_compile_post_return(uint8_t *result) {}
void __wasm_export_exports_javascript_load_post_return(uint8_t *result) {}
void __wasm_export_exports_javascript_run_post_return(uint8_t *result) {}
void __wasm_export_exports_javascript_image_post_return(uint8_t *result) {}
