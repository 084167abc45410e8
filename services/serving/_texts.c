/* float32 as the text that TensorFlow Serving writes: six digits if they read back as the same number, else nine.
 *
 * write_floats(values, size) gives a list of str: each one `size` numbers in brackets, or one bare number if size is 0.
 *
 * Nine digits come out of one multiplication by an exact power of ten, which errs by less than a millionth of the last
 * digit; what lies nearer than that to a half of it, may have six digits, or has an unusual size is left to CPython's
 * PyOS_double_to_string.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#define LONGEST 24 /* bytes of a number and what follows it; at most 15 and 2 are used */

/* 10 to the power of what lies between SMALLEST and the largest that is written without an exponent. */
static const double POWERS[] = {1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13};
#define SMALLEST (-5)
#define POWER(n) POWERS[(n) - SMALLEST]

/* C's "%.6g" or "%.9g", with a point in it; the end of it, or NULL with an error set. */
static char *write_carefully(float value, char *to) {
    char *text = PyOS_double_to_string(value, 'g', 6, 0, NULL);
    if (text != NULL && (float)PyOS_string_to_double(text, NULL, NULL) != value) {
        PyMem_Free(text);
        text = PyOS_double_to_string(value, 'g', 9, 0, NULL);
    }
    if (text == NULL)
        return NULL;
    size_t length = strlen(text);
    memcpy(to, text, length);
    to += length;
    if (strpbrk(text, ".e") == NULL) {
        *to++ = '.';
        *to++ = '0';
    }
    PyMem_Free(text);
    return to;
}

static char *write_one(float value, char *to) {
    if (!isfinite(value)) {
        const char *text = isnan(value) ? "NaN" : value > 0 ? "Infinity" : "-Infinity";
        size_t length = strlen(text);
        memcpy(to, text, length);
        return to + length;
    }
    double size = fabs((double)value);
    if (!(size >= POWER(SMALLEST) && size < POWER(9)))
        return write_carefully(value, to);
    int exponent = SMALLEST;
    while (size >= POWER(exponent + 1))
        exponent++;
    double scaled = size * POWER(8 - exponent); /* nine digits before the point; the power is exact */
    uint32_t number = (uint32_t)scaled;
    double rest = scaled - number;
    number += rest > 0.5;
    uint32_t tail = number % 1000;
    /* half a unit in the last place of a float32 is less than 60 of the ninth digit */
    if (fabs(rest - 0.5) < 1e-6 || tail <= 60 || tail >= 940)
        return write_carefully(value, to);
    char digits[9];
    int count = 9;
    for (int i = 8; i >= 0; i--, number /= 10)
        digits[i] = (char)('0' + number % 10);
    while (digits[count - 1] == '0')
        count--;
    if (value < 0)
        *to++ = '-';
    int before = exponent < -4 ? 1 : exponent + 1; /* digits before the point */
    if (before <= 0) {
        memcpy(to, "0.000", 5);
        to += 2 - before;
        memcpy(to, digits, (size_t)count);
        return to + count;
    }
    memcpy(to, digits, (size_t)before);
    to += before;
    *to++ = '.';
    if (count > before) {
        memcpy(to, digits + before, (size_t)(count - before));
        to += count - before;
    } else {
        *to++ = '0';
    }
    if (exponent < -4) {
        memcpy(to, "e-05", 4);
        to += 4;
    }
    return to;
}

/* `count` numbers, in brackets or bare, as a str. */
static PyObject *write_group(const float *values, Py_ssize_t count, int brackets, char *buffer) {
    char *to = buffer;
    if (brackets)
        *to++ = '[';
    for (Py_ssize_t i = 0; i < count; i++) {
        if (i) {
            *to++ = ',';
            *to++ = ' ';
        }
        to = write_one(values[i], to);
        if (to == NULL)
            return NULL;
    }
    if (brackets)
        *to++ = ']';
    return PyUnicode_DecodeASCII(buffer, to - buffer, NULL);
}

static PyObject *write_all(const float *values, Py_ssize_t count, Py_ssize_t size) {
    Py_ssize_t each = size ? size : 1;
    if (size < 0 || count % each || each > PY_SSIZE_T_MAX / LONGEST - 1) {
        PyErr_SetString(PyExc_ValueError, "the numbers do not fill groups of that size");
        return NULL;
    }
    PyObject *list = PyList_New(count / each);
    char *buffer = PyMem_Malloc((size_t)(each + 1) * LONGEST);
    if (list != NULL && buffer == NULL)
        PyErr_NoMemory();
    for (Py_ssize_t i = 0; list != NULL && buffer != NULL && i < count / each; i++) {
        PyObject *text = write_group(values + i * each, each, size != 0, buffer);
        if (text == NULL)
            break;
        PyList_SET_ITEM(list, i, text);
    }
    PyMem_Free(buffer);
    if (PyErr_Occurred())
        Py_CLEAR(list);
    return list;
}

static PyObject *write_floats(PyObject *module, PyObject *args) {
    PyObject *values;
    Py_ssize_t size;
    Py_buffer view;
    (void)module;
    if (!PyArg_ParseTuple(args, "On", &values, &size) ||
        PyObject_GetBuffer(values, &view, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT) < 0)
        return NULL;
    PyObject *texts = NULL;
    if (view.format == NULL || strcmp(view.format, "f") != 0)
        PyErr_SetString(PyExc_TypeError, "float32 values are wanted");
    else
        texts = write_all(view.buf, view.len / (Py_ssize_t)sizeof(float), size);
    PyBuffer_Release(&view);
    return texts;
}

static PyMethodDef METHODS[] = {
    {"write_floats", write_floats, METH_VARARGS, "write_floats(values: float32 buffer, size: int) -> list[str]"},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef MODULE = {PyModuleDef_HEAD_INIT, "_texts", NULL, 0, METHODS, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__texts(void) { return PyModuleDef_Init(&MODULE); }
