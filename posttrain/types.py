"""The nouns of the toolkit: Prompt, Turn, Episode, Group, Batch.

They are plain records; what they mean to a reward, an engine or a learner is those modules' business. Shape suffixes:
`_T` tokens of a stream. The example used in every docstring is one group of two episodes on the prompt "2 + 3 =":

    prompt tokens  [10 11 12 13]
    episode 0      turn 0 wrote [20 21 2], then a tool answered [30 31 32], then turn 1 wrote [22 2]
    episode 1      turn 0 wrote [23 2] and was done
"""

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Message = dict[str, Any]
"""A chat message as chat templates take it: `role`, and `content` as text or a list of typed parts."""


def text_of(message: Message) -> str:
    """A message's text without its images."""
    content = message["content"]
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float32]

StopReason = Literal["stop", "length"]
Status = Literal["complete", "truncated", "turn_limit", "token_limit", "image_limit", "failed"]
CallStatus = Literal["answered", "refused", "invalid", "failed"]


@dataclass(frozen=True, kw_only=True)
class EncodedImage:
    """A picture as a file's bytes (PNG, or whatever the data held), with its size in original pixels.

    Everything that passes a picture on passes this on, so that the pixels are decoded where they are needed and nowhere else.
    """

    data: bytes = field(repr=False)
    width: int
    height: int

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the bytes, in hexadecimal: what names the picture in caches and in the run folder."""
        return hashlib.sha256(self.data).hexdigest()


@dataclass(slots=True, kw_only=True)
class Prompt:
    """What an episode starts from.

    In the example: id "arithmetic/17", task "arithmetic", messages [{"role": "user", "content": "2 + 3 ="}], reference "5".
    `reference` is all that a rule reward may compare with; `metadata` is carried through to rewards and episode files.
    images: one for each `{"type": "image"}` part of the messages, in their order.
    tools: the JSON schemas of the functions that the policy may call; their names are those of `posttrain.tools`. environment: the
    name under `posttrain.environments` of what answers the policy between turns.
    """

    id: str
    task: str
    messages: list[Message]
    reference: Any
    metadata: dict[str, Any] = field(default_factory=dict)
    images: list[EncodedImage] = field(default_factory=list)
    tools: list[dict[str, Any]] = field(default_factory=list)
    environment: str | None = None


# A prompt and its tokens by the model's chat template.
RenderedPrompt = tuple[Prompt, IntArray]


@dataclass(slots=True, kw_only=True)
class ToolCall:
    """One call that a turn wrote, and what became of it.

    In the example: name "calculator", arguments {"expression": "2 + 3"}, status "answered".
    status: "answered"; "refused" (the tool said what is wrong with it); "invalid" (no tool was reached: no JSON, an unknown name,
    arguments that do not fit the tool's schema), where name and arguments are what could be read of them; or "failed" (the tool
    broke, hung or died). seconds: until the answer, waiting for a free process included.
    """

    name: str
    arguments: dict[str, Any]
    status: CallStatus
    seconds: float = 0.0


@dataclass(slots=True, kw_only=True)
class Turn:
    """One uninterrupted piece of the policy's writing, and what came back.

    In the example, episode 0 has two: token_ids [20 21 2] with observation_token_ids [30 31 32] (the template's tokens
    around the tool's answer, up to where the policy goes on), then [22 2] with none.

    token_ids: int64, as sampled, the stop token included where one was sampled; never decoded and encoded again.
    logprobs: float32, one a token: log-probability under the distribution that was sampled from, in the engine.
    policy_version: the number of optimizer steps behind the weights that wrote this turn.
    tool_calls: in the order in which they were written. observed: the messages that came back, as far as the policy was shown them: one
    a tool call, or the environment's. observation_token_ids, observation_images: one image placeholder token for each image, as the
    engine takes them.
    top_ids, top_logprobs: int64 and float32 (N, K), the K most likely tokens at each place, best first, where an engine was asked.
    """

    token_ids: IntArray
    logprobs: FloatArray
    text: str
    stop_reason: StopReason
    policy_version: int
    tool_calls: list[ToolCall] = field(default_factory=list)
    observed: list[Message] = field(default_factory=list)
    observation_token_ids: IntArray = field(default_factory=lambda: np.zeros(0, np.int64))
    observation_images: list[EncodedImage] = field(default_factory=list)
    top_ids: IntArray | None = None
    top_logprobs: FloatArray | None = None

    @property
    def observation(self) -> str | None:
        """The text of what came back; None where nothing did."""
        return "\n".join(text_of(message) for message in self.observed) if self.observed else None


@dataclass(slots=True, kw_only=True)
class Episode:
    """One sampled conversation: the unit that a reward scores.

    In the example episode 0 holds two turns, status "complete", scores {"numeric": 1.0}, reward 1.0, advantage 1.0.

    status: "complete" (the policy stopped by itself, or its environment was done), "truncated" (a turn was cut by the completion or
    context length), "token_limit" (what came back, or a further turn, had no room in them), "turn_limit", "image_limit" (a further
    turn or image was wanted and not allowed: neither learned from nor compared, so that more may be allowed later), or "failed" (no
    usable episode; `failure` says why, and it takes no part in scoring or training).
    environment_score: what its environment said last of how it went; None where none did.
    scores: one number a reward; weights: theirs in the sum; details: what a reward says of its score, as JSON, where it says
    anything; outcome: the weighted sum, before an algorithm shapes it; reward: with the shaping, what
    is learned from; advantage: set by the algorithm. is_masked: left out of statistics and loss by the algorithm's choice.
    """

    prompt_id: str
    turns: list[Turn]
    status: Status
    scores: dict[str, float] = field(default_factory=dict)
    weights: dict[str, float] = field(default_factory=dict)
    details: dict[str, str] = field(default_factory=dict)
    outcome: float = 0.0
    reward: float = 0.0
    advantage: float = 0.0
    is_masked: bool = False
    failure: str | None = None
    environment_score: float | None = None

    @property
    def is_counted(self) -> bool:
        """Whether it takes part in its group's statistics and in the loss: neither failed, nor out of turns or images, nor masked."""
        return self.status in ("complete", "truncated", "token_limit") and not self.is_masked

    @property
    def is_cut(self) -> bool:
        """Whether it ran out of tokens."""
        return self.status in ("truncated", "token_limit")

    @property
    def num_completion_tokens(self) -> int:
        """Tokens the policy wrote, all turns together (5 for episode 0 of the example)."""
        return sum(len(turn.token_ids) for turn in self.turns)

    @property
    def text(self) -> str:
        """What the policy wrote in its last turn, special tokens left out: the answer that rewards look at."""
        return self.turns[-1].text if self.turns else ""


@dataclass(slots=True, kw_only=True)
class Group:
    """A prompt and its episodes: the unit of scoring, filtering, advantage and packing.

    prompt_token_ids: int64, the rendered prompt as the engine was given it ([10 11 12 13] in the example).
    """

    prompt: Prompt
    prompt_token_ids: IntArray
    episodes: list[Episode]

    @property
    def counted(self) -> list[Episode]:
        """The episodes that are compared with each other and trained on."""
        return [episode for episode in self.episodes if episode.is_counted]

    @property
    def num_counted(self) -> int:
        """How many those are."""
        return len(self.counted)

    @property
    def has_signal(self) -> bool:
        """Whether the outcomes differ: without that there is nothing to learn from comparing them."""
        return len({episode.outcome for episode in self.counted}) > 1


@dataclass(slots=True, kw_only=True)
class Batch:
    """One micro-batch: a packed stream of T tokens in which each group's prompt stands once and its episodes branch off.

    The example packs to T = 14:

        token_ids         10 11 12 13 | 20 21  2 30 31 32 22  2 | 23  2
        position_ids       0  1  2  3 |  4  5  6  7  8  9 10 11 |  4  5
        segment_ids        0  0  0  0 |  1  1  1  1  1  1  1  1 |  2  2
        prefix_ids         0  0  0  0 |  0  0  0  0  0  0  0  0 |  0  0
        predictor_ids      -  -  -  - |  3  4  5  6  7  8  9 10 |  3 12
        loss_weights       0  0  0  0 |  w  w  w  0  0  0  w  w |  v  v

    A token sees the earlier tokens of its own segment and of its prefix segment. Token t is predicted from the hidden
    state at predictor_ids[t] (-1 where nothing predicts it). loss_weights are final for the whole optimizer step, so
    that a sum over all micro-batches of all ranks is the loss; 0 means not trained. behavior_logprobs are the engine's,
    old_logprobs the learner's before the step (None: the policy being trained is the old policy), ref_logprobs a frozen
    reference's (None: there is none). prompt_ids names the prompt of each tree in stream order ("arithmetic/17"). teacher
    names the teacher whose word on the trained tokens is teacher_scores: a `posttrain.teacher.TeacherScores`, or a reference to
    one in Ray's object store (None: there is none).

    Where there are images, each is a run of placeholder tokens, and position_ids is (3, T): time, row and column. `images` holds
    each once, however often the stream shows it; image_runs, int64 (R, 2), says where each run begins and which image it is.
    banned_token_ids were out of the sampler's reach and have no probability here either.
    """

    token_ids: IntArray
    position_ids: IntArray
    segment_ids: IntArray
    prefix_ids: IntArray
    predictor_ids: IntArray
    loss_weights: FloatArray
    behavior_logprobs: FloatArray
    advantages: FloatArray
    old_logprobs: FloatArray | None = None
    ref_logprobs: FloatArray | None = None
    prompt_ids: list[str] = field(default_factory=list)
    images: list[EncodedImage] = field(default_factory=list)
    image_runs: IntArray = field(default_factory=lambda: np.zeros((0, 2), np.int64))
    banned_token_ids: tuple[int, ...] = ()
    teacher: str = ""
    teacher_scores: Any = None

    @property
    def num_tokens(self) -> int:
        """Length of the stream."""
        return len(self.token_ids)


@dataclass(slots=True, kw_only=True)
class SoftTargets:
    """What a teacher held likely where it wrote the N tokens of an answer.

    token_ids: int64 (N,), what it wrote; logprobs: float32 (N,), of these. top_ids: int64 (N, K), its K most likely tokens at
    each place, best first; top_logprobs: float32 (N, K).
    """

    token_ids: IntArray
    logprobs: FloatArray
    top_ids: IntArray
    top_logprobs: FloatArray

    def at(self, places: slice) -> "SoftTargets":
        """Those of some of the tokens."""
        return SoftTargets(
            token_ids=self.token_ids[places],
            logprobs=self.logprobs[places],
            top_ids=self.top_ids[places],
            top_logprobs=self.top_logprobs[places],
        )


@dataclass(slots=True, kw_only=True)
class Conversation:
    """A conversation to learn from: one row of a task's data.

    where: the row's place, for error lines. digest: follows from the row's content alone. tools: JSON schemas that the chat
    template lists. images: one for each of the messages' image parts, in their order. soft_targets: of the last message, where
    they are to be learned from.
    """

    where: str
    digest: bytes
    messages: list[Message]
    tools: list[dict[str, Any]] | None = None
    images: list[EncodedImage] = field(default_factory=list)
    soft_targets: SoftTargets | None = None


@dataclass(slots=True, kw_only=True)
class Pair:
    """A preference: two answers to one prompt as tokens, int64, each ending in the token that ends the answer.

    prompt_token_ids: all that the two sequences begin with alike, at least one token.
    """

    prompt_token_ids: IntArray
    chosen_token_ids: IntArray
    rejected_token_ids: IntArray


@dataclass(slots=True, kw_only=True)
class Document:
    """A conversation, or a part of one, as tokens: token_ids int64 (T,), is_trained bool (T,), never true for the first.

    "2 + 3 =" answered by [20 21 2] is token_ids [10 11 12 13 20 21 2], is_trained [0 0 0 0 1 1 1]. images: one for each image
    placeholder among the tokens, in their order. soft_targets: of the trained tokens, if there are any.
    """

    token_ids: IntArray
    is_trained: NDArray[np.bool_]
    images: list[EncodedImage] = field(default_factory=list)
    soft_targets: SoftTargets | None = None
