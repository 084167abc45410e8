/* A regular block of JSON numbers, read straight into float32: what simdjson and a check of brackets do in three passes.
 *
 * read_block(body, at, shape) reads nested arrays of any number of rows of `shape` that begin at body[at], and gives
 * (rows, end, values), or None for whatever is not exactly that or is rare: the caller has another reader for it, which
 * also knows the words for what is wrong. Nothing here raises but for wrong arguments and want of memory.
 *
 * Numbers come out as (float)d with d the nearest double, as TensorFlow Serving's do. At most 19 digits times a power of
 * ten are, with three roundings, a double that is off by less than four units of its last place. That is enough, unless
 * a border between two floats is nearly as near as that: then, and for longer numbers, Python's own
 * PyOS_string_to_double decides.
 *
 * The body is a bytes object, so body[size] is a NUL: reading one byte at the end of anything is always allowed.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <string.h>

#define MOST_DIMENSIONS 8
#define FLOAT_LARGEST 3.4e38 /* a little less than what a float32 holds */

typedef struct {
    const char *end;
    Py_ssize_t sizes[MOST_DIMENSIONS];
    int dimensions;
    float *next;
} Reader;

#define POWER 22
static const double POWERS[] = {1e-22, 1e-21, 1e-20, 1e-19, 1e-18, 1e-17, 1e-16, 1e-15, 1e-14, 1e-13, 1e-12, 1e-11,
                                1e-10, 1e-9,  1e-8,  1e-7,  1e-6,  1e-5,  1e-4,  1e-3,  1e-2,  1e-1,  1e0,   1e1,
                                1e2,   1e3,   1e4,   1e5,   1e6,   1e7,   1e8,   1e9,   1e10,  1e11,  1e12,  1e13,
                                1e14,  1e15,  1e16,  1e17,  1e18,  1e19,  1e20,  1e21,  1e22};

static inline int is_digit(char c) { return (unsigned char)(c - '0') < 10; }

static inline const char *skip_space(const char *p) {
    if ((unsigned char)*p > ' ') /* one comparison, most often */
        return p;
    while (*p == ' ' || *p == '\n' || *p == '\t' || *p == '\r')
        p++;
    return p;
}

/* The number whose digits are the bytes of `chunk`, the first one in the lowest: pairs, then fours, then all. */
static inline uint64_t eight_digits(uint64_t chunk) {
    chunk = chunk * 10 + (chunk >> 8);
    return ((chunk & 0x000000FF000000FFu) * 0x000F424000000064u +
            ((chunk >> 16) & 0x000000FF000000FFu) * 0x0000271000000001u) >> 32;
}

/* Digits from p on, appended to *number; p after them. More than 19 in all overflow it: the caller counts. */
static inline const char *digits(const char *p, const char *end, uint64_t *number) {
#if defined(__GNUC__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    /* Eight bytes at a time, and no loop over the rest: how many digits there are is what a processor can't guess. */
    static const uint32_t tens[] = {1, 10, 100, 1000, 10000, 100000, 1000000, 10000000};
    while (end - p >= 8) {
        uint64_t chunk;
        memcpy(&chunk, p, 8);
        /* A byte is a digit if its upper half is 3 and adding 6 does not change that; the lowest byte is the first. */
        uint64_t other = ((chunk & 0xF0F0F0F0F0F0F0F0u) | ((chunk + 0x0606060606060606u) & 0xF0F0F0F0F0F0F0F0u) >> 4) ^
                         0x3333333333333333u;
        if (other == 0) {
            *number = *number * 100000000u + eight_digits(chunk - 0x3030303030303030u);
            p += 8;
            continue;
        }
        int count = __builtin_ctzll(other) / 8; /* of digits; the rest is shifted out, and zeros come in before them */
        *number = *number * tens[count] + eight_digits((chunk - 0x3030303030303030u) << (56 - 8 * count) << 8);
        return p + count;
    }
#else
    (void)end;
#endif
    while (is_digit(*p))
        *number = *number * 10 + (uint64_t)(*p++ - '0');
    return p;
}

/* Whether casting d to a float32 gives the same for everything within eight units of its last place. */
static inline int is_certain(double d) {
    uint64_t bits;
    memcpy(&bits, &d, 8);
    uint64_t dropped = bits & 0x1FFFFFFFu; /* of 52 bits a float32 keeps 23 */
    return dropped - 0x0FFFFFF8u > 16;     /* half of the last one kept is 0x10000000 */
}

/* The slow way, for what begins at `start` and ends at `end`. */
static int by_python(const char *start, const char *end, double *value) {
    char *stopped;
    *value = PyOS_string_to_double(start, &stopped, NULL); /* too large: infinity */
    if (*value == -1.0 && PyErr_Occurred()) {
        PyErr_Clear();
        return 0;
    }
    return stopped == end;
}

/* A number of JSON's grammar into *out; what follows it, or NULL: it is none, or one that is left to others. */
static const char *any_number(const char *start, const char *end, float *out) {
    const char *p = start;
    int negative = *p == '-';
    p += negative;
    const char *first = p;
    uint64_t number = 0;
    if (*p == '0')
        p++;
    else if ((p = digits(p, end, &number)) == first)
        return NULL;
    Py_ssize_t count = p - first; /* of digits that are in `number`; leading zeros are taken off below */
    int64_t exponent = 0;
    int whole = 1;
    if (*p == '.') {
        whole = 0;
        const char *point = ++p;
        p = digits(p, end, &number);
        if (p == point)
            return NULL;
        exponent = -(p - point);
        count += p - point;
    }
    if (*p == 'e' || *p == 'E') {
        whole = 0;
        p++;
        int down = *p == '-';
        p += *p == '-' || *p == '+';
        const char *power = p;
        int64_t written = 0;
        while (is_digit(*p)) {
            written = written < 100000 ? written * 10 + (*p - '0') : written;
            p++;
        }
        if (p == power)
            return NULL;
        exponent += down ? -written : written;
    }
    if (count > 19) {
        for (const char *c = first; count > 19 && (*c == '0' || *c == '.'); c++)
            count -= *c == '0';
    }
    double value;
    if (whole) {
        if (count > 18)
            return NULL; /* beyond int64 there are rules of their own */
        value = (double)(int64_t)number;
        value = negative && number ? -value : value; /* a whole -0 is 0 */
    } else if (number == 0 && count <= 19) {
        value = negative ? -0.0 : 0.0;
    } else {
        int few = count <= 19 && exponent >= -POWER && exponent <= POWER;
        value = few ? (double)number * POWERS[exponent + POWER] : 0;
        if (few && is_certain(value))
            value = negative ? -value : value;
        else if (!by_python(start, p, &value))
            return NULL;
        if (!(value < FLOAT_LARGEST && value > -FLOAT_LARGEST))
            return NULL;
    }
    *out = (float)value;
    return p;
}

/* The same for a fraction of up to 19 digits, which most numbers are; NULL also for others: see any_number. */
static inline const char *plain_fraction(const char *p, const char *end, float *out) {
    int negative = *p == '-';
    p += negative;
    uint64_t number = 0;
    Py_ssize_t count = 0;
    if (*p == '0') {
        p++;
    } else {
        const char *first = p;
        p = digits(p, end, &number);
        count = p - first;
        if (count == 0)
            return NULL;
    }
    if (*p++ != '.')
        return NULL;
    const char *point = p;
    p = digits(p, end, &number);
    Py_ssize_t places = p - point;
    if (places == 0 || count + places > 19 || (*p | ' ') == 'e' || number > INT64_MAX)
        return NULL;
    double value = (double)(int64_t)number * POWERS[POWER - places];
    if (!is_certain(value))
        return NULL;
    *out = (float)(negative ? -value : value);
    return p;
}

static inline const char *read_number(Reader *r, const char *p) {
    const char *after = plain_fraction(p, r->end, r->next);
    if (after == NULL)
        after = any_number(p, r->end, r->next);
    r->next++;
    return after;
}

/* An array of sizes[depth] things with its brackets; what follows it, or NULL. */
static const char *read_array(Reader *r, const char *p, int depth) {
    Py_ssize_t count = r->sizes[depth];
    int innermost = depth + 1 == r->dimensions;
    if (*p++ != '[')
        return NULL;
    for (;;) {
        p = skip_space(p);
        p = innermost ? read_number(r, p) : read_array(r, p, depth + 1);
        if (p == NULL)
            return NULL;
        p = skip_space(p);
        if (--count == 0)
            return *p == ']' ? p + 1 : NULL;
        if (*p++ != ',')
            return NULL;
    }
}

/* All rows up to the bracket that closes the block, into *values, which grows; what follows it, or NULL. */
static const char *read_rows(Reader *r, const char *p, Py_ssize_t row, PyObject *values, Py_ssize_t *rows) {
    Py_ssize_t room = 0;
    const char *began = p;
    if (*p++ != '[')
        return NULL;
    for (*rows = 0;;) {
        if (*rows == room) {
            /* what is left holds about as many rows a byte as what was read did, and one is one at least */
            room += *rows == 0 ? 1 : *rows * ((r->end - p) / (p - began)) + *rows / 8 + 1;
            if (room > PY_SSIZE_T_MAX / 4 / row) {
                PyErr_NoMemory();
                return NULL;
            }
            if (PyByteArray_Resize(values, room * row * 4) < 0)
                return NULL;
            r->next = (float *)PyByteArray_AS_STRING(values) + *rows * row;
        }
        p = skip_space(p);
        p = r->dimensions ? read_array(r, p, 0) : read_number(r, p);
        if (p == NULL)
            return NULL;
        p = skip_space(p);
        ++*rows;
        if (*p == ']')
            return PyByteArray_Resize(values, *rows * row * 4) < 0 ? NULL : p + 1;
        if (*p++ != ',')
            return NULL;
    }
}

static PyObject *read_block(PyObject *module, PyObject *args) {
    PyObject *body, *shape;
    Py_ssize_t at, row = 1, rows = 0;
    Reader r;
    (void)module;
    if (!PyArg_ParseTuple(args, "SnO!", &body, &at, &PyTuple_Type, &shape))
        return NULL;
    Py_ssize_t size = PyBytes_GET_SIZE(body);
    if (at < 0 || at > size || PyTuple_GET_SIZE(shape) > MOST_DIMENSIONS)
        Py_RETURN_NONE;
    r.dimensions = (int)PyTuple_GET_SIZE(shape);
    for (int i = 0; i < r.dimensions; i++) {
        r.sizes[i] = PyLong_AsSsize_t(PyTuple_GET_ITEM(shape, i));
        if (r.sizes[i] == -1 && PyErr_Occurred())
            return NULL;
        /* a number takes a byte at least, so a row of more numbers than there are bytes is not in the body */
        if (r.sizes[i] < 1 || r.sizes[i] > size / row)
            Py_RETURN_NONE;
        row *= r.sizes[i];
    }
    const char *text = PyBytes_AS_STRING(body);
    r.end = text + size;
    PyObject *values = PyByteArray_FromStringAndSize(NULL, 0);
    if (values == NULL)
        return NULL;
    const char *after = read_rows(&r, text + at, row, values, &rows);
    if (after != NULL)
        return Py_BuildValue("nnN", rows, (Py_ssize_t)(after - text), values);
    Py_DECREF(values);
    if (PyErr_Occurred())
        return NULL;
    Py_RETURN_NONE;
}

static PyMethodDef METHODS[] = {
    {"read_block", read_block, METH_VARARGS, "read_block(body: bytes, at: int, shape: tuple) -> (rows, end, values) | None"},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef MODULE = {PyModuleDef_HEAD_INIT, "_blocks", NULL, 0, METHODS, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__blocks(void) { return PyModuleDef_Init(&MODULE); }
