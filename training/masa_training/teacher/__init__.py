"""Teachers: who looks at an agent's episodes and rewrites the skills that it was shown."""

from masa_training.teacher.card_claims import claims
from masa_training.teacher.config import TeacherConfig
from masa_training.teacher.llm import LLMTeacher
from masa_training.teacher.opening import check_teacher, opened_summarizer, opened_teacher
from masa_training.teacher.operators import OperatorTeacher
from masa_training.teacher.protocol import Asked, Rewrite, Seen, Summarizer, Summary, Teacher, TeacherError, Watched
from masa_training.teacher.recorded import RecordedTeacher, RecordingTeacher
from masa_training.teacher.symptoms import SYMPTOMS, attribute, symptoms_of

__all__ = [
    "SYMPTOMS",
    "Asked",
    "LLMTeacher",
    "OperatorTeacher",
    "RecordedTeacher",
    "RecordingTeacher",
    "Rewrite",
    "Seen",
    "Summarizer",
    "Summary",
    "Teacher",
    "TeacherConfig",
    "TeacherError",
    "Watched",
    "attribute",
    "check_teacher",
    "claims",
    "opened_summarizer",
    "opened_teacher",
    "symptoms_of",
]
