// For clang with wasi-libc. By hand what wit-bindgen would write: the canonical ABI of `handle`.
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// The result<string, string> as it lies in memory.
static struct {
    unsigned is_error;
    const char *text;
    size_t length;
} result;

__attribute__((export_name("cabi_realloc"))) void *cabi_realloc(void *old, size_t old_size, size_t align, size_t size) {
    (void)old_size, (void)align;
    void *new = realloc(old, size ? size : 1);
    if (!new) abort();
    return new;
}

__attribute__((export_name("handle"))) void *handle(char *input, size_t length) {
    if (length == 0) {
        result.is_error = 1, result.text = "nothing to do", result.length = strlen(result.text);
        return &result;
    }
    if (length >= 5 && memcmp(input, "print", 5) == 0) {
        printf("%.*s\n", (int)length, input);
        fflush(stdout);
    }
    for (size_t i = 0; i < length; i++) input[i] = (char)toupper((unsigned char)input[i]);
    result.is_error = 0, result.text = input, result.length = length;
    return &result;
}
