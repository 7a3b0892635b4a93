"""Code problems on texts. Each function makes one problem, with constants and shape drawn from `rng`."""

from random import Random

from posttrain.data.generated.code_base import VOWELS, Problem, letters, sentence, some_words


def text_pipeline(rng: Random) -> Problem:
    """Two or three changes of a text, one after another."""
    k, (a, b) = rng.randint(2, 4), rng.sample("abcdehilnorst", 2)
    steps = {
        "turn all letters into capitals": "text = text.upper()",
        "turn all letters into small ones": "text = text.lower()",
        "swap capitals and small letters": "text = text.swapcase()",
        f"replace each '{a}' by '{b}' (small letters only)": f"text = text.replace('{a}', '{b}')",
        "remove all vowels (a, e, i, o, u, capital or small)": f"text = ''.join(c for c in text if c.lower() not in '{VOWELS}')",
        "reverse the whole text": "text = text[::-1]",
        "reverse the order of the words (words are parted by single blanks)": "text = ' '.join(text.split(' ')[::-1])",
        f"write each character {k} times": f"text = ''.join(c * {k} for c in text)",
        f"keep only the characters at the indices 0, {k}, {2 * k} and so on": f"text = text[::{k}]",
        f"remove the first {k} characters": f"text = text[{k}:]",
        "replace each blank by an underscore": "text = text.replace(' ', '_')",
    }
    chosen = rng.sample([*steps], rng.randint(2, 3))
    listed = " ".join(f"{number}. {step[0].upper()}{step[1:]}." for number, step in enumerate(chosen, 1))
    return Problem(
        signature="transform(text: str) -> str",
        task=f"Change a text step by step and return it. {listed}",
        body="\n".join([*(steps[step] for step in chosen), "return text"]),
        draw=lambda draw: [sentence(draw)],
    )


def caesar(rng: Random) -> Problem:
    """Letters moved along the alphabet."""
    shift = rng.randint(1, 24)
    return Problem(
        signature="shift_letters(text: str) -> str",
        task=f"Replace each small letter a to z by the one {shift} places later in the alphabet; after z it goes on with a. "
        "Everything else stays as it is.",
        body=f"moved = [chr((ord(c) - 97 + {shift}) % 26 + 97) if 'a' <= c <= 'z' else c for c in text]\nreturn ''.join(moved)",
        draw=lambda draw: [sentence(draw)],
    )


def count_in_text(rng: Random) -> Problem:
    """How many characters or words of a text are of some kind."""
    k, letter = rng.randint(3, 7), rng.choice("aeinorst")
    what, code = rng.choice(
        (
            (f"words of a text have more than {k} letters", f"sum(len(word) > {k} for word in text.split())"),
            (f"words of a text contain the letter {letter}, capital or small", f"sum('{letter}' in word.lower() for word in text.split())"),
            (f"characters of a text are the letter {letter}, capital or small", f"text.lower().count('{letter}')"),
            ("capital letters a text has", "sum(c.isupper() for c in text)"),
            ("vowels (a, e, i, o, u, capital or small) a text has", f"sum(c.lower() in '{VOWELS}' for c in text)"),
            ("different characters a text has, capitals and small letters being different", "len(set(text))"),
        )
    )
    return Problem(
        signature="count(text: str) -> int",
        task=f"Return how many {what}. Words are parted by blanks.",
        body=f"return {code}",
        draw=lambda draw: [sentence(draw)],
    )


def run_length(rng: Random) -> Problem:
    """Runs of equal letters, written down."""
    form = rng.choice(("{c}{n}", "{n}{c}", "{c}*{n}"))
    joint = rng.choice(("", "-", ","))
    written = form.format(c="{text[start]}", n="{i - start}")
    example = joint.join(form.format(c=c, n=n) for c, n in (("a", 3), ("b", 1)))
    return Problem(
        signature="runs(text: str) -> str",
        task="Write each run of equal letters as the letter and the length of the run, in the form of this example: "
        f"'aaab' becomes '{example}'. An empty text stays empty.",
        body="parts = []\nstart = 0\nfor i in range(1, len(text) + 1):\n    if i == len(text) or text[i] != text[start]:\n"
        f"        parts.append(f'{written}')\n        start = i\nreturn '{joint}'.join(parts)",
        draw=lambda draw: [letters(draw)],
    )


def most_common(rng: Random) -> Problem:
    """The words or letters that stand most often, with a rule for ties."""
    k = rng.randint(1, 3)
    order = rng.choice(("ascending", "descending"))
    code = "(-counts[word], word)" if order == "ascending" else "(counts[word], word)"
    reverse = "" if order == "ascending" else ", reverse=True"
    return Problem(
        signature="most_common(words: list[str]) -> list[str]",
        task=f"Return the {k} most frequent of the words as a list, most frequent first; "
        f"equally frequent ones in {order} alphabetical order. If there are fewer different words, return all of them.",
        body="counts = {}\nfor word in words:\n    counts[word] = counts.get(word, 0) + 1\n"
        f"ranked = sorted(counts, key=lambda word: {code}{reverse})\nreturn ranked[:{k}]",
        draw=lambda draw: [[draw.choice(("red", "blue", "green", "black", "white")) for _ in range(draw.randint(0, 9))]],
    )


def choose_words(rng: Random) -> Problem:
    """The words that fit, put together again."""
    k, joint = rng.randint(4, 7), rng.choice(("-", "+", "/", ", ", " and "))
    keep, code = rng.choice(
        (
            (f"have at most {k} letters", f"len(word) <= {k}"),
            (f"have at least {k} letters", f"len(word) >= {k}"),
            ("begin with a vowel (a, e, i, o, u)", f"word[0] in '{VOWELS}'"),
            ("contain a letter twice or more", "len(set(word)) < len(word)"),
        )
    )
    order, ordered = rng.choice(
        (("in alphabetical order", "sorted({})"), ("in the order of the input", "{}"), ("in the reverse order of the input", "{}[::-1]"))
    )
    kept = ordered.format("[word for word in words if " + code + "]")
    return Problem(
        signature="choose(words: list[str]) -> str",
        task=f"Take the words that {keep}, {order}, and return them as one text with '{joint}' between them; '' if there are none.",
        body=f"kept = {kept}\nreturn '{joint}'.join(kept)",
        draw=lambda draw: [some_words(draw)],
    )


def brackets(rng: Random) -> Problem:
    """How deep or where brackets nest."""
    opener, closer = rng.choice(("()", "[]", "{}", "<>"))
    is_depth = rng.random() < 0.5
    wanted = (
        "the greatest depth to which they nest (0 if there are none)"
        if is_depth
        else "the index of the first character at which this shows: of a closing one too many, or else the length of the text"
    )
    wrong = "return -1" if is_depth else "return i"
    last = "return deepest if depth == 0 else -1" if is_depth else "return -1 if depth == 0 else len(text)"
    fallback = "-1 if they do not match each other" if is_depth else "-1 if they all match each other"
    return Problem(
        signature="check(text: str) -> int",
        task=f"A text may hold opening brackets '{opener}' and closing ones '{closer}'; other characters do not matter. "
        + (f"Return {wanted}, or {fallback}." if is_depth else f"Return {fallback}; otherwise return {wanted}."),
        body=f"depth = deepest = 0\nfor i, c in enumerate(text):\n    depth += (c == '{opener}') - (c == '{closer}')\n"
        f"    if depth < 0:\n        {wrong}\n    deepest = max(deepest, depth)\n{last}",
        draw=lambda draw: [_bracketed(draw, opener, closer)],
    )


def _bracketed(rng: Random, opener: str, closer: str) -> str:
    text = "a"
    for _ in range(rng.randint(0, 4)):
        text = rng.choice((f"{opener}{text}{closer}", f"{text}{opener}{closer}", f"{text}x"))
    if rng.random() < 0.5:
        place = rng.randint(0, len(text))
        text = text[:place] + rng.choice((opener, closer)) + text[place:]
    return text


KINDS = (text_pipeline, caesar, count_in_text, run_length, most_common, choose_words, brackets)
